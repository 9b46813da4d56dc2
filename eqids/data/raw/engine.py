"""Opens DuckDB, which reads users' files, and turns its errors into `UserError`s."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import ibis

from eqids.config import UserError, require
from eqids.data.raw.event_tables import DuckDBTables, EventTables

_OWN_FAULTS = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.SyntaxException,
)
"""Errors of DuckDB that mean a wrong query of ours, not a bad file."""
LONGEST_COMPLAINT = 500
"""Characters of an engine's message that are shown."""


@dataclass(frozen=True)
class Engine:
    """A connection that reads files, and what holds the events."""

    con: Any
    """An Ibis connection to DuckDB."""
    folder: Path
    """An empty folder for links, unpacked files and data larger than memory."""
    tables: EventTables
    """Tables as large as the events: on DuckDB, or on Spark."""


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Opens an engine, and removes its temporary files when it is closed.

    Raises:
        UserError: DuckDB would read the temporary folder's name as a pattern.
    """
    with tempfile.TemporaryDirectory(prefix="eqids-") as folder:
        require(
            not re.search(r"[*?\[]", folder),
            f"the folder of temporary files, {folder}, has one of * ? [ in its name; "
            "set TMPDIR to another",
        )
        con = ibis.duckdb.connect(temp_directory=f"{folder}/spilled")
        try:
            con.raw_sql("SET TimeZone = 'UTC'")
            # Parquet's statistics leave NaN out: DuckDB 2.0 takes from them that a
            # column has none, and isnan() for false.
            con.raw_sql("SET disabled_optimizers = 'statistics_propagation'")
            yield Engine(con, Path(folder), DuckDBTables(con))
        finally:
            con.disconnect()


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns DuckDB's errors about the content of `file` into a `UserError`."""
    try:
        yield
    except _OWN_FAULTS:
        raise
    except duckdb.Error as error:  # a damaged file may raise any other of these
        said = str(error).split("Possible ")[0].split("\nLINE ")[0].split("\n\n")[0]
        said = " | ".join(said.splitlines())
        if "state machine" in said:
            said = (
                "it is no CSV as RFC 4180 wants it: lines end in different ways, or a "
                "quote is not closed"
            )
        said = re.sub(r"(Original Line: .{60})[^|]*", r"\1… ", said)
        # The engine reads the file under a temporary name.
        said = re.sub(r"[\"']?/\S*/eqids-\S+", "the file", said)
        raise UserError(f"{file} cannot be read: {said[:LONGEST_COMPLAINT]}") from None
