"""A line of JSON for each request, written by a thread of its own."""

import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

_MOST_WAITING = 10_000
"""Lines that wait for the writer; more are dropped, so that a log that nobody reads
does not stop the server."""


class AccessRecord(Struct, omit_defaults=True):
    """One request; neither its key nor, unless it is wanted, its body."""

    time: str
    client: str
    method: str
    path: str
    """The path with names for its parameters: /v1/users/{user}."""
    status: int
    seconds: float
    error: str = ""
    body: str = ""


class AccessLog:
    """Writes records in the order of their answers."""

    def __init__(self, write: Callable[[str], None]):
        """Starts the thread.

        Args:
            write: writes a text of whole lines, and may block.
        """
        self._write = write
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._encode = msgspec.json.Encoder().encode
        self._dropped = 0
        self._thread = threading.Thread(
            target=self._run, name="access log", daemon=True
        )
        self._thread.start()

    def add(self, record: AccessRecord) -> None:
        """Writes a record soon, or drops it if too many wait."""
        try:
            self._lines.put_nowait(self._encode(record))
        except queue.Full:
            self._dropped += 1

    def close(self, seconds: float = 1.0) -> None:
        """Writes what waits, for at most so many seconds."""
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            ended = False
            while not self._lines.empty() and not ended:
                more = self._lines.get()
                ended = more is None
                lines += [] if more is None else [more]
            if self._dropped:
                lines.append(self._encode({"dropped_lines": self._dropped}))
                self._dropped = 0
            self._write(b"\n".join(lines).decode() + "\n")
            if ended:
                return


def now() -> str:
    """Returns the time in UTC, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
