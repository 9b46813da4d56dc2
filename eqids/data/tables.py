"""Files as Ibis tables on DuckDB: every column as the file has it, rows numbered."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir

from eqids.config import UserError, require

ROW = "eqids_row"
"""Column that numbers the rows in the file's order, from 0."""

_DELIMITERS = (",", "\t", ";", "|", "::", " ")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns DuckDB's complaint about the content of `file` into a `UserError`."""
    try:
        yield
    except (duckdb.InvalidInputException, duckdb.IOException) as error:
        said = str(error).split("Possible ")[0].split("\nLINE ")[0].split("\n\n")[0]
        said = " | ".join(said.splitlines())
        raise UserError(f"{file} cannot be read: {said}") from None


def delimited(
    con: Any,
    path: Path,
    delimiter: str,
    names: Sequence[str],
    header: bool = False,
    quote: str = '"',
    encoding: str = "utf-8",
) -> ir.Table:
    """A file of delimited text, all columns as strings.

    Nothing is guessed, since DuckDB's sniffer may drop rows that look odd to it.

    Args:
        con: an Ibis connection to DuckDB.
        path: the file.
        delimiter: one to four characters between fields.
        names: of the columns, in the file's order.
        header: whether the first line holds names and is skipped.
        quote: the character around fields that hold a delimiter, or none.
        encoding: utf-8 or latin-1.
    """
    with reading(path):
        table = con.read_csv(
            str(path),
            auto_detect=False,
            columns=dict.fromkeys(names, "VARCHAR"),
            delim=delimiter,
            header=header,
            quote=quote,
            escape=quote,
            encoding=encoding,
        )
    return table.mutate(ibis.row_number().name(ROW))


def with_header(con: Any, path: Path, wanted: Sequence[str]) -> ir.Table:
    """A CSV file whose first line names its columns.

    Args:
        con: an Ibis connection to DuckDB.
        path: the file.
        wanted: columns that tell the delimiter: the first that separates them all.
    """
    line = _first_line(path)
    splits = {delimiter: _split(line, delimiter) for delimiter in _DELIMITERS}
    telling = [d for d, names in splits.items() if set(wanted) <= set(names)]
    delimiter = telling[0] if telling else max(splits, key=lambda d: len(splits[d]))
    # Data frames write their index under an empty name.
    names = [name or f"column{n}" for n, name in enumerate(splits[delimiter])]
    _require_unique(path, names)
    return delimited(con, path, delimiter, names, header=True)


def atomic(con: Any, path: Path) -> ir.Table:
    """A RecBole atomic file: tab-separated, with a header of `name:type`."""
    fields = _first_line(path).split("\t")
    require(
        all(":" in field for field in fields),
        f"{path} starts with {fields[0]!r}, wanted RecBole's header of name:type "
        "fields between tabs",
    )
    names = [field.partition(":")[0] for field in fields]
    _require_unique(path, names)
    return delimited(con, path, "\t", names, header=True, quote="")


def parquet(con: Any, path: Path) -> ir.Table:
    """A Parquet file."""
    _require_file(path)
    with reading(path):
        table = con.read_parquet(str(path), file_row_number=True)
    return table.rename({ROW: "file_row_number"})


def _first_line(path: Path) -> str:
    _require_file(path)
    with path.open(encoding="utf-8-sig") as file:
        try:
            line = file.readline().rstrip("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})") from None
    require(bool(line.strip()), f"{path} is empty, wanted a line of column names")
    return line


def _require_file(path: Path) -> None:
    require(path.exists(), f"{path} does not exist")
    require(path.is_file(), f"{path} is a folder, wanted a file")
    require(path.stat().st_size > 0, f"{path} is empty")


def _split(line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter))


def _require_unique(path: Path, names: Sequence[str]) -> None:
    # DuckDB does not tell upper from lower case in names.
    folded = [name.casefold() for name in names]
    twice = [name for name in names if folded.count(name.casefold()) > 1]
    require(
        not twice,
        f"{path} names column {twice[0] if twice else ''!r} twice, wanted each once",
    )
