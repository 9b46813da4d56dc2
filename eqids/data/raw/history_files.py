"""Reads files of histories; ids and times are read as `prepare` reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from eqids.config import require
from eqids.data.raw.columns import moments_of, require_id_types, typed_id
from eqids.data.raw.engine import engine, reading
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
        table = table_of_file(reader, path, ["user", "item"])
        for name in ("user", "item"):
            require(
                name in table,
                f"{path} has no column {name!r}: it has {table.listed()}; wanted user, "
                "item and, optionally, time",
            )
        known = ("user", "item", "time", "request_time")
        names = [name for name in known if name in table]
        events = table.table.select(**{n: table[n] for n in names}, row=table.row)
        source = Source(path, {n: n for n in names}, events, not is_parquet(path))
        require_id_types(source)
        num_rows, found = survey(source, ["user", "item"], ())
        require(num_rows > 0, f"{path} has no rows, wanted some below the names")
        check_missing(source, num_rows, found, "refuse", report, _IDS)
        ids = {name: typed_id(source, name, found[name]) for name in found}
        ordered = events.mutate(**ids).order_by("row").select(names)
        with reading(path):
            return ordered.to_pyarrow().to_pandas()


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
