"""The file of events that a server collects: its SQLite schema, and how it opens.

SQLite keeps a write-ahead log beside it. Ids are text or integers, and keep their type.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa

from eqids.config import UserError, require

_APPLICATION_ID = int.from_bytes(b"EqId")
_SCHEMA_VERSION = 1
_IS_ID = "typeof({0}) IN ('integer', 'text')"
_SCHEMA = (
    f"""CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    user NOT NULL CHECK ({_IS_ID.format("user")}),
    item NOT NULL CHECK ({_IS_ID.format("item")}),
    time INTEGER NOT NULL CHECK (typeof(time) = 'integer'))""",
    "CREATE UNIQUE INDEX history ON events (user, time, item)",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
"""`number` is the order of arrival, and `time` is in unix seconds. Columns without a
type keep the type of each value."""

_IDS = [(n, kind) for n in ("user", "item") for kind in ("integer", "text")]
_CASES = [f"CASE typeof({n}) WHEN '{kind}' THEN {n} END" for n, kind in _IDS]
_SELECT = f"SELECT {', '.join(_CASES)}, time FROM events ORDER BY number"
_ARROW = {"integer": pa.int64(), "text": pa.string()}
_EVENTS = pa.schema(
    [*((f"{n}_{kind}", _ARROW[kind]) for n, kind in _IDS), ("time", pa.int64())]
)
_BLOCK = 100_000
"""Rows that are read at once."""


def open_event_file(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Opens and checks a file of events.

    Args:
        path: the file.
        create: open it for writing, and make it if it does not exist or is empty;
            otherwise it is only read.

    Returns:
        The connection, see `connect`.

    Raises:
        UserError: the file does not exist, is damaged, is no file of events or has
            another version.
    """
    file = connect(path, "rwc" if create else "ro")
    try:
        with event_file_errors(path):
            if create:
                _make(file)
            _check(path, file)
    except BaseException:
        file.close()
        raise
    return file


def connect(path: Path, mode: Literal["ro", "rwc"]) -> sqlite3.Connection:
    """Returns a connection in autocommit mode, for use by any thread.

    Args:
        path: the file.
        mode: "ro" to read, "rwc" to write, and to make the file if it does not exist.

    Raises:
        UserError: the file cannot be opened.
    """
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    with event_file_errors(path):
        return sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False
        )


def recorded_dataset(file: sqlite3.Connection) -> Path | None:
    """Returns the dataset folder that a server recorded, or None."""
    query = "SELECT value FROM settings WHERE name = 'data_dir'"
    row = file.execute(query).fetchone()
    return None if row is None else Path(row[0])


def read_events(file: sqlite3.Connection) -> pa.Table:
    """Returns all events in the order of arrival.

    Returns:
        Columns user_integer, user_text, item_integer, item_text, of each pair one null;
        and time.
    """
    rows = file.execute(_SELECT)
    batches = [_EVENTS.empty_table()]
    while block := rows.fetchmany(_BLOCK):
        columns = zip(*block, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _EVENTS, strict=True)]
        batches.append(pa.table(arrays, _EVENTS))
    return pa.concat_tables(batches)


@contextmanager
def event_file_errors(path: Path) -> Iterator[None]:
    """Raises errors of SQLite as a `UserError` that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(
            f"{path}, a file of events, cannot be read or written: {error}"
        ) from error


def _make(file: sqlite3.Connection) -> None:
    """Makes the tables if the file has none and belongs to no other application."""
    if any(
        _value(file, f"PRAGMA {name}") for name in ("application_id", "user_version")
    ):
        return
    if _value(file, "SELECT count(*) FROM sqlite_schema"):
        return
    # It is persistent, and cannot be set inside a transaction.
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        file.execute(statement)
    file.execute("COMMIT")


def _check(path: Path, file: sqlite3.Connection) -> None:
    require(
        _value(file, "PRAGMA application_id") == _APPLICATION_ID,
        f"{path} is no file of events of EqIDs, wanted one that "
        "python -m eqids.serve --events made, or the name of a new file",
    )
    version = _value(file, "PRAGMA user_version")
    require(
        version == _SCHEMA_VERSION,
        f"{path}: the version of its schema is {version}, wanted {_SCHEMA_VERSION}: "
        "use the version of eqids that made it",
    )
    fault = _value(file, "PRAGMA quick_check(1)")
    require(fault == "ok", f"{path} is damaged: {fault}")


def _value(file: sqlite3.Connection, query: str) -> object:
    """The first value of a query that returns one row."""
    return file.execute(query).fetchone()[0]
