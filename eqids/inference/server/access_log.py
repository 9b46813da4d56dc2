"""A line of JSON for each request, written by a thread of its own."""

import threading
from collections import deque
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
    """Writes records in the order of their answers, ten times a second."""

    def __init__(self, write: Callable[[str], None]):
        """Starts the thread.

        Args:
            write: writes a text of whole lines, and may block.
        """
        self._write = write
        self._lines: deque[bytes] = deque()
        self._encode = msgspec.json.Encoder().encode
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="access log", daemon=True
        )
        self._thread.start()

    def add(self, record: AccessRecord) -> None:
        """Writes a record soon, or drops it if too many wait."""
        if len(self._lines) < _MOST_WAITING:
            self._lines.append(self._encode(record))
        else:
            self._dropped += 1

    def close(self) -> None:
        """Writes what waits, for at most a second."""
        self._closing.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        # The thread is not woken for each line: that would cost more than the line.
        closing = False
        while not closing:
            closing = self._closing.wait(0.1)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._dropped:
                lines.append(self._encode({"dropped_lines": self._dropped}))
                self._dropped = 0
            if lines:
                self._write(b"\n".join(lines).decode() + "\n")


def now() -> str:
    """Returns the time in UTC, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
