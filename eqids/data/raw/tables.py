"""Opens files as Ibis tables on DuckDB: columns as the file has them, rows numbered.

Nothing is guessed: names are literal, columns are read by position, and no reader adds
columns of its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from eqids.config import UserError, check_content, require
from eqids.data.raw.csv_header import LONGEST_HEADER, first_line, header_of
from eqids.data.raw.engine import LONGEST_COMPLAINT, Engine, reading
from eqids.data.raw.raw_files import is_parquet, linked, parquet_files, text_file

ROW = "eqids_row"
"""Column that numbers the rows in the file's order, from 0."""


@dataclass(frozen=True, eq=False)
class FileTable(Mapping[str, Any]):
    """The columns of a file, by the file's own names, whatever they are.

    DuckDB reserves some names and ignores upper and lower case, so the columns of
    `table` are called `c0`, `c1` and so on.
    """

    file: Path
    """The file's name, for messages."""
    columns: tuple[str, ...]
    """Names as the file has them, which may repeat."""
    table: ir.Table
    """The columns, in the file's order, and `ROW`."""
    inexact: Mapping[int, str] = field(default_factory=dict)
    """Types, by position, of columns that the engine reads inexactly."""
    parts: tuple[Path, ...] = ()
    """The Parquet files, in the order of their rows."""

    def __getitem__(self, name: str) -> Any:
        """Returns a column.

        Raises:
            KeyError: no column has this name.
            UserError: two columns have this name, or the engine reads the column
                inexactly.
        """
        places = [n for n, column in enumerate(self.columns) if column == name]
        if not places:
            raise KeyError(name)
        require(
            len(places) == 1,
            f"{self.file} names column {name!r} {len(places)} times, wanted it once",
        )
        kind = self.inexact.get(places[0])
        require(
            kind is None,
            f"{self.file}: column {name!r} is {kind}, which is not read exactly; "
            "wanted integers, text, dates or timestamps",
        )
        return self.table[f"c{places[0]}"]

    def __iter__(self) -> Iterator[str]:
        """Yields each name once."""
        return iter(dict.fromkeys(self.columns))

    def __len__(self) -> int:
        """Returns the number of different names."""
        return len(set(self.columns))

    @property
    def row(self) -> Any:
        """The number of each row, from 0."""
        return self.table[ROW]

    def named(self) -> ir.Table:
        """Returns the table by the file's names, which must be distinct."""
        return self.table.rename({name: f"c{n}" for n, name in enumerate(self.columns)})

    def listed(self) -> str:
        """Returns the names for a message; ambiguous ones are quoted."""
        return ", ".join(
            name if re.fullmatch(r"[^\s,'\"](.*[^\s,'\"])?", name) else repr(name)
            for name in self.columns
        )


def delimited(
    engine: Engine,
    path: Path,
    delimiter: str,
    names: Sequence[str],
    header: bool = False,
    quote: str = '"',
    encoding: str = "utf-8",
    text: Path | None = None,
) -> FileTable:
    """Opens a file of delimited text, all columns as strings.

    Nothing is guessed, because DuckDB's sniffer may drop unusual rows.

    Args:
        engine: what reads it.
        path: the file, which may be compressed.
        delimiter: one to four characters between fields.
        names: the names of the columns, in the file's order.
        header: whether the first line holds names and is skipped.
        quote: the character around fields that hold a delimiter, or none.
        encoding: utf-8 or latin-1.
        text: the result of `text_file` for it, if that was called before.
    """
    text = text_file(path, engine.folder) if text is None else text
    columns = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(names)))
    options = {
        "auto_detect": "false",
        "columns": f"{{{columns}}}",
        "delim": _sql(delimiter),
        "header": str(header).lower(),
        "quote": _sql(quote),
        "escape": _sql(quote),
        "encoding": _sql(encoding),
        "new_line": _sql(_line_end(text, quote)),
        "compression": "'none'",
        "hive_partitioning": "false",
    }
    given = ", ".join(f"{name} = {value}" for name, value in options.items())
    source = f"read_csv({_sql(str(text))}, {given})"
    select = f"SELECT row_number() OVER () - 1 AS {ROW}, * FROM {source}"
    return _viewed(engine, path, names, select)


def with_header(engine: Engine, path: Path, wanted: Sequence[str]) -> FileTable:
    """Opens a CSV file whose first line names its columns.

    Args:
        engine: what reads it.
        path: the file, which may be compressed.
        wanted: columns that identify the delimiter: it is the first that separates
            them.
    """
    text = text_file(path, engine.folder)
    delimiter, names = header_of(path, text, wanted)
    return delimited(engine, path, delimiter, names, header=True, text=text)


def atomic(engine: Engine, path: Path) -> FileTable:
    """Opens a RecBole atomic file: tab-separated, with a header of `name:type`."""
    text = text_file(path, engine.folder)
    fields = first_line(path, text).rstrip("\r\n").split("\t")
    require(
        all(":" in field for field in fields),
        f"{path} starts with {fields[0]!r}, wanted RecBole's header of name:type "
        "fields between tabs",
    )
    names = [field.partition(":")[0] for field in fields]
    return delimited(engine, path, "\t", names, header=True, quote="", text=text)


def parquet(engine: Engine, path: Path) -> FileTable:
    """Opens a Parquet file, or a folder of such files as one table.

    Args:
        engine: what reads it.
        path: a file; or a folder, see `parquet_files`.

    Raises:
        UserError: a file is no complete Parquet file, or has no columns; or two files
            have different columns.
    """
    files = parquet_files(path)
    footers = [_footer(file) for file in files]
    schema = footers[0].schema.to_arrow_schema()
    for file, footer in zip(files, footers, strict=True):
        _require_schema(file, footer.schema.to_arrow_schema(), files[0], schema)
    inexact = {
        place: str(kind)
        for place, kind in enumerate(schema.types)
        if pa.types.is_decimal256(kind) or pa.types.is_duration(kind)
    }
    columns = ", ".join(f"c{n}" for n in range(len(schema.names)))
    links = ", ".join(_sql(str(linked(file, engine.folder))) for file in files)
    source = f"read_parquet([{links}], hive_partitioning = false)"
    sizes = [0, *(footer.num_rows for footer in footers[:-1])]
    starts = ", ".join(map(str, accumulate(sizes)))
    row = f"[{starts}][CAST(file_index + 1 AS BIGINT)] + file_row_number"
    # The alias of all columns prevents a clash with a user's column of this name.
    select = f"SELECT {row} AS {ROW}, * FROM {source} AS t({columns})"
    table = _viewed(engine, path, schema.names, select)
    return replace(table, inexact=inexact, parts=tuple(files))


def _footer(path: Path) -> pq.FileMetaData:
    check_content(path, binary=True)
    try:
        # Opened here, because pyarrow takes names such as `file:x` for URLs.
        with path.open("rb") as file:
            footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read: it is no complete Parquet file "
            f"({said[:LONGEST_COMPLAINT]})"
        ) from None
    require(footer.num_columns > 0, f"{path} has no columns")
    return footer


def _require_schema(file: Path, schema: pa.Schema, first: Path, of: pa.Schema) -> None:
    """Requires that the files of a folder agree in columns and types."""
    one, other = (
        ", ".join(f"{each.name} {each.type}" for each in table)
        for table in (schema, of)
    )
    require(
        one == other,
        f"{file} has the columns {one}, and {first} has {other}; wanted the same in "
        "all files",
    )


def table_of_file(engine: Engine, path: Path, wanted: Sequence[str]) -> FileTable:
    """Opens a file as Parquet, if its first bytes or name say so, or as CSV with a
    header.

    Args:
        engine: what reads it.
        path: the file.
        wanted: columns that identify the delimiter of a CSV file.
    """
    if is_parquet(path):
        return parquet(engine, path)
    return with_header(engine, path, wanted)


def _viewed(engine: Engine, path: Path, names: Sequence[str], select: str) -> FileTable:
    view = ibis.util.gen_name("file")
    with reading(path):
        engine.con.raw_sql(f'CREATE VIEW "{view}" AS {select}')
    return FileTable(path, tuple(names), engine.con.table(view))


def _line_end(text: Path, quote: str) -> str:
    """The end of the first line, as DuckDB spells it.

    DuckDB's own guess is the first line end, even inside a quoted name, and it then
    reads no rows.
    """
    with text.open("rb") as file:
        begin = file.read(LONGEST_HEADER)
    if quote:
        begin = re.sub(rb'"[^"]*"', b"", begin)
    found = re.search(rb"\r\n|\n|\r", begin)
    ends = {b"\r\n": r"\r\n", b"\r": r"\r"}
    return ends.get(found[0], r"\n") if found else r"\n"


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
