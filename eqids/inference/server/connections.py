"""Connections that are closed when their clients are too slow, or too many."""

import time
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from eqids.inference.server.bodies import ErrorAnswer

KEEP_ALIVE = 75
"""Seconds between two requests of a connection; proxies close theirs after 60."""


class BoundedConnection(H11Protocol):
    """A connection of HTTP/1.1, one of at most `max_connections`.

    uvicorn bounds neither the time until the first request, nor that of its head.
    """

    max_connections = 512
    read_timeout = 10.0

    def connection_made(self, transport: Any) -> None:
        """Makes place for the connection if there are too many."""
        super().connection_made(transport)
        self.since = time.monotonic()
        if len(self.connections) > self.max_connections:
            waiting = [one for one in self.connections if one.waits()]  # type: ignore[union-attr]
            oldest: Any = min(waiting, key=lambda one: one.since)  # type: ignore[union-attr]
            oldest.transport.abort()
            self.connections.discard(oldest)

    def on_response_complete(self) -> None:
        """Starts the time of the next request."""
        self.since = time.monotonic()
        super().on_response_complete()

    def waits(self) -> bool:
        """Returns whether it waits for the client, to send or to receive."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return True
        return cycle.response_started and self.flow.write_paused

    def close_if_overdue(self) -> None:
        """Closes it if the client took too long."""
        idle = self.cycle is not None and not self.cycle.more_body
        allowed = self.read_timeout + (KEEP_ALIVE if idle else 0)
        if self.waits() and time.monotonic() - self.since > allowed:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, and closes the connection."""
        sentence = "the request is no valid HTTP, or its head is too long"
        body = msgspec.json.encode(ErrorAnswer(sentence))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        try:
            answer: list[Any] = [
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for part in answer:
                self.transport.write(self.conn.send(part) or b"")
        except h11.LocalProtocolError:  # an answer has begun
            pass
        self.transport.close()
