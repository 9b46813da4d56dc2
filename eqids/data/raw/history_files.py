"""Reads files of histories; ids and times are read as `prepare` reads them."""

from collections.abc import Callable
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
import pyarrow as pa

from eqids.config import require
from eqids.data.raw.columns import moments_of, require_id_types, typed_id
from eqids.data.raw.engine import Engine, engine, reading
from eqids.data.raw.missing import MissingAdvice, check_missing, survey
from eqids.data.raw.raw_files import is_parquet
from eqids.data.raw.sources import Source
from eqids.data.raw.tables import ROW, table_of_file
from eqids.data.raw.times import TIMES_WANTED

_IDS = MissingAdvice(empty="", null_words="")


def read_history_file(path: Path, report: Callable[[str], None]) -> pd.DataFrame:
    """Reads the columns user, item and, if the file has them, time and request_time.

    Ids have the type that `prepare` gives them; times are unchanged.

    Args:
        path: a Parquet file, or a CSV file with a header.
        report: receives warnings about ids that look like missing values.

    Returns:
        The rows in the file's order.

    Raises:
        UserError: the file does not exist, cannot be read, has no rows or lacks a
            column; or an id is missing, nested or binary.
    """
    with engine() as reader:
        source = open_histories(reader, path)
        num_rows, found = survey(source, ["user", "item"], ())
        require(num_rows > 0, f"{path} has no rows, wanted some below the names")
        check_missing(source, num_rows, found, "refuse", report, _IDS)
        ids = {name: typed_id(source, name, found[name]) for name in found}
        ordered = source.events.mutate(**ids).order_by("row").select(*source.columns)
        with reading(path):
            return ordered.to_pyarrow().to_pandas()


def open_histories(reader: Engine, path: Path) -> Source:
    """Opens a file of histories, or a folder of Parquet files of them.

    Args:
        reader: reads it.
        path: a Parquet file, a CSV file with a header, or a folder, whose files of
            names that end in .parquet or .pq are read in the order of their names.

    Returns:
        Columns user, item and, if the file has them, time and request_time.

    Raises:
        UserError: a file does not exist, cannot be read or lacks a column, an id is
            nested or binary, or two files have different columns or types.
    """
    files = history_files(path)
    parts, num_rows = [], 0
    for file in files:
        table = table_of_file(reader, file, ["user", "item"])
        for name in ("user", "item"):
            require(
                name in table,
                f"{file} has no column {name!r}: it has {table.listed()}; wanted user, "
                "item and, optionally, time",
            )
        known = ("user", "item", "time", "request_time")
        columns = {name: table[name] for name in known if name in table}
        parts.append(table.table.select(**columns, row=table.row + num_rows))
        if len(files) > 1:
            num_rows += int(parts[-1].count().to_pyarrow().as_py())
        _require_same_columns(file, parts[-1], files[0], parts[0])
    names = [name for name in parts[0].columns if name != "row"]
    events = parts[0] if len(parts) == 1 else ibis.union(*parts)
    source = Source(path, {n: n for n in names}, events, not is_parquet(files[0]))
    require_id_types(source)
    return source


def history_files(path: Path) -> list[Path]:
    """Returns the files of histories that a path names; see `open_histories`.

    Raises:
        UserError: the path is a folder without Parquet files.
    """
    if not path.is_dir():
        return [path]
    ends = (".parquet", ".pq")
    files = [file for file in path.iterdir() if file.suffix.lower() in ends]
    files = [file for file in files if not file.name.startswith((".", "_"))]
    require(bool(files), f"{path} is a folder without files *.parquet or *.pq")
    return sorted(files)


def _require_same_columns(
    file: Path, table: ir.Table, first: Path, of_first: ir.Table
) -> None:
    """Requires that the files of a folder agree in columns and types."""
    one, other = (
        ", ".join(f"{name} {kind}" for name, kind in each.schema().items())
        for each in (table.drop("row"), of_first.drop("row"))
    )
    require(
        one == other,
        f"{file} has the columns {one}, and {first} has {other}; wanted the same in "
        "all files",
    )


def moments_of_texts(
    texts: pa.ChunkedArray,
    name: str,
    advice: str,
    report: Callable[[str], None],
    column: str = "time",
) -> tuple[np.ndarray, bool]:
    """Reads texts of times as `prepare` reads them.

    Args:
        texts: [event].
        name: the name of the table, for messages.
        advice: what to do about missing times.
        report: receives warnings.
        column: the name of the column, for messages.

    Returns:
        int64 or float64 [event], and whether they are numbers; otherwise they are
        seconds since 1970.

    Raises:
        UserError: a time is missing, or a text is no time.
    """
    rows = pa.table({"time": texts, ROW: np.arange(len(texts))})
    with engine() as reader:
        reader.con.con.register("given", rows)
        given = reader.con.table("given")
        events = given.select(time=given["time"], row=given[ROW])
        source = Source(Path(name), {"time": column}, events, spelled=True)
        num_rows, found = survey(source, ["time"], ())
        times = MissingAdvice(empty="", time=advice)
        check_missing(source, num_rows, found, "refuse", report, times)
        moment, numeric = moments_of(source, "time", found["time"], TIMES_WANTED)
        ordered = events.select(moment=moment, row=events["row"]).order_by("row")
        with reading(source.file):
            return ordered.to_pyarrow()["moment"].to_numpy(), numeric
