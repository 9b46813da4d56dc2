"""Events that a server receives, durable before they are acknowledged."""

import contextlib
import fcntl
import os
import queue
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eqids.config import UserError, require
from eqids.data.event_file import connect, event_file_errors, open_event_file
from eqids.data.ids import shown
from eqids.io.atomic import sync

_INSERT = (
    "INSERT INTO events (user, item, time) VALUES (?, ?, ?) "
    "ON CONFLICT (user, time, item) DO NOTHING"
)
_SET = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)"
_HISTORY = "SELECT item, time FROM events WHERE user = ? ORDER BY time, number"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Event:
    """A user used an item."""

    user: str | int
    """The user's id."""
    item: str | int
    """The item's id."""
    time: int
    """Unix seconds."""


@dataclass(frozen=True)
class _Write:
    """Rows that wait for the writer; all of them are written or none."""

    statement: str
    """What writes a row."""
    rows: Sequence[tuple[Any, ...]]
    """The values of each row."""
    done: "Future[int]"
    """Gets the number of new rows when they are on the disk."""


class EventStore:
    """Events in one SQLite file, which one process at a time may open.

    One thread writes: it takes everything that waits, and writes it in one transaction
    with one fsync. An event with the user, item and time of an earlier one is dropped,
    as `python -m eqids.prepare` does, so that a request may safely be sent again.
    """

    def __init__(self, path: Path):
        """Opens a file of events, or makes it.

        Args:
            path: the file. Two others lie beside it, with -wal and -shm at the end of
                their names, and one with -lock.

        Raises:
            UserError: another process uses the file, it is damaged, it is no file of
                events, or it cannot be written.
        """
        self.path = path
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, _locked(path))
            self._file = open_event_file(path, create=True)
            opened.callback(self._file.close)
            with event_file_errors(path):
                self._file.execute("PRAGMA journal_mode = WAL")
                self._file.execute("PRAGMA synchronous = FULL")
            self._reader = connect(path, "ro")
            opened.callback(self._reader.close)
            sync(path.resolve().parent)
            self._opened = opened.pop_all()
        self._reading = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def append(self, events: Sequence[Event]) -> "Future[int]":
        """Writes events, all of them or none.

        Args:
            events: ids and times of 64 bits at most.

        Returns:
            A future that is done when the events are on the disk, with the number of
            them that were new. Its exception is a `UserError` if they could not be
            written. Cancel it to withdraw events that still wait.

        Raises:
            UserError: an id or a time cannot be stored; the message names the event.
            RuntimeError: the store is closed.
        """
        for number, event in enumerate(events):
            _check(number, event)
        rows = [(event.user, event.item, event.time) for event in events]
        return self._submit(_INSERT, rows)

    def history(self, user: str | int) -> list[Event]:
        """Returns a user's durable events in the order of time, ties as they came."""
        with self._reading, event_file_errors(self.path):
            try:
                rows = self._reader.execute(_HISTORY, (user,)).fetchall()
            except (OverflowError, UnicodeEncodeError):  # no event has such a user
                return []
        return [Event(user, item, time) for item, time in rows]

    def record_dataset(self, data_dir: Path) -> "Future[int]":
        """Records which dataset's histories the events continue.

        `python -m eqids.prepare --source events:FILE` reads it.
        """
        return self._submit(_SET, [("data_dir", str(data_dir.resolve()))])

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        self._thread.join()
        with self._reading:
            self._opened.close()

    def _submit(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> "Future[int]":
        write = _Write(statement, rows, Future())
        with self._closing:
            if self._closed:
                raise RuntimeError(f"{self.path} is closed")
            self._waiting.put(write)
        return write.done

    def _run(self) -> None:
        """Writes groups until the store is closed."""
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            self._write(
                [
                    one
                    for one in group
                    if one is not None and one.done.set_running_or_notify_cancel()
                ]
            )
            if None in group:
                return

    def _write(self, group: Sequence[_Write]) -> None:
        """Writes a group in one transaction."""
        try:
            with event_file_errors(self.path), self._file:
                self._file.execute("BEGIN IMMEDIATE")
                counts = [
                    self._file.executemany(one.statement, one.rows).rowcount
                    for one in group
                ]
        except Exception as error:
            for one in group:
                one.done.set_exception(error)
            return
        for one, count in zip(group, counts, strict=True):
            one.done.set_result(max(count, 0))


def _check(number: int, event: Event) -> None:
    """Requires that SQLite can store an event."""
    for name, value in vars(event).items():
        if isinstance(value, str):
            good, wanted = not _SURROGATE.search(value), "Unicode text"
        else:
            good, wanted = -(2**63) <= value < 2**63, "an integer of 64 bits"
        require(good, f"events[{number}]: {name} is {shown(value)}, wanted {wanted}")


def _locked(path: Path) -> int:
    """Locks the file that lies beside `path` for this purpose.

    The lock ends with the process. A lock on `path` itself would be lost whenever this
    process closes another handle of it, by the rules of POSIX.
    """
    lock = path.resolve()
    lock = lock.with_name(f"{lock.name}-lock")
    try:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
    except BlockingIOError as error:
        raise UserError(
            f"{path} is in use by another process, wanted a file of events for each "
            "server"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be made or opened ({error.strerror}), wanted a file of "
            "events in a folder that can be written to"
        ) from error
    return file
