"""uvicorn's server, whose connections are closed if clients are too slow or many."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import h11
import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from eqids.config import ServeConfig
from eqids.inference.server.application import Application
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


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which closes slow connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            for connection in list(self.server_state.connections):
                assert isinstance(connection, BoundedConnection)
                connection.close_if_overdue()
        return await super().on_tick(counter)


def http_server(config: ServeConfig, application: Application) -> uvicorn.Server:
    """Returns a server that does not listen yet; see `uvicorn.Server.serve`.

    Args:
        config: the command's flags.
        application: answers requests.
    """

    class Connection(BoundedConnection):
        max_connections = config.max_connections
        read_timeout = config.read_timeout

    uvicorn_config = uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        # asyncio accepts as many at once, before it closes any.
        backlog=256,
        headers=[("x-content-type-options", "nosniff")],
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(config.read_timeout) + 1,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )
    return _Server(uvicorn_config)
