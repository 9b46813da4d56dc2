"""Sorts files of histories by user and time, on disk and in bounded memory."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from eqids.config import TimeUnit, UserError, require
from eqids.data.dataset import Dataset
from eqids.data.ids import shown
from eqids.data.raw.columns import date_form, moments_of, seconds, typed_id
from eqids.data.raw.engine import Engine, engine, reading
from eqids.data.raw.history_files import open_histories
from eqids.data.raw.history_units import WITHOUT_TIMES, unit_of_histories
from eqids.data.raw.missing import (
    ColumnSurvey,
    MissingAdvice,
    check_missing,
    survey,
)
from eqids.data.raw.sources import Source
from eqids.data.raw.times import SECONDS, TIMES_WANTED

_MEMORY, _THREADS = "1GB", 4
"""Most memory of the engine, whose threads each need a share; what exceeds it goes to a
temporary folder."""
_ROW_GROUP = 100_000
"""Rows of the sorted file that are read at once."""
_ADVICE = MissingAdvice(empty="", time=WITHOUT_TIMES["time"], null_words="")


def sort_histories(
    path: Path,
    target: Path,
    dataset: Dataset,
    report: Callable[[str], None],
    *,
    skip_unknown: bool,
    request_time: bool,
) -> int:
    """Writes the events of histories to a Parquet file, sorted by user and time.

    Ids and times mean what they mean to `Recommender.recommend`.

    Args:
        path: see `open_histories`.
        target: the file to write: user (of the type that it has in the input), slot
            (-1 for items that the catalog does not hold) and, if the input has them,
            time and request_time in unix seconds. Ties keep the order of rows.
        dataset: holds the catalog.
        report: receives warnings, and the unit of times.
        skip_unknown: whether events may hold items that the catalog does not hold.
        request_time: whether to read the column request_time.

    Returns:
        The number of events with items that the catalog does not hold.

    Raises:
        UserError: a file or a value is invalid; the message names the first.
    """
    with engine() as reader:
        reader.con.raw_sql(f"SET memory_limit = '{_MEMORY}'")
        reader.con.raw_sql(f"SET threads = {min(_THREADS, os.cpu_count() or 1)}")
        source = open_histories(reader, path)
        names = [
            name for name in source.columns if name != "request_time" or request_time
        ]
        num_rows, found = survey(source, names, ())
        require(num_rows > 0, f"{path} has no rows, wanted some below the names")
        check_missing(source, num_rows, found, "refuse", report, _ADVICE)
        ids = {name: typed_id(source, name, found[name]) for name in ("user", "item")}
        slots, num_unknown = _slots(reader, source, ids["item"], dataset, skip_unknown)
        columns = {**ids, "row": source.events["row"]}
        for name in ("time", "request_time"):
            if name in names:
                columns |= _moments(source, name, found[name], dataset, report)
        events = source.events.select(**columns)
        if path.is_dir():
            # DuckDB 2.0 runs out of memory where it sorts many files at once.
            one = reader.folder / "events.parquet"
            with reading(path):
                reader.con.to_parquet(events, one)
            events = reader.con.read_parquet(one)
        events = events.join(slots, "item")
        order = [name for name in ("user", "moment", "row") if name in columns]
        kept = [n for n in ("user", "slot", "time", "request_time") if n in events]
        with reading(path):
            sorted_events = events.order_by(order).select(kept)
            reader.con.to_parquet(sorted_events, target, row_group_size=_ROW_GROUP)
    return num_unknown


def _slots(
    reader: Engine, source: Source, item: Any, dataset: Dataset, skip_unknown: bool
) -> tuple[ir.Table, int]:
    """The slot of each distinct item, and the number of events without one."""
    events = source.events.select(item=item, row=source.events["row"])
    grouped = events.group_by("item").aggregate(
        num_events=events.count(), row=events["row"].min()
    )
    with reading(source.file):
        items = grouped.to_pyarrow()
    slots = dataset.find_items(items["item"])
    unknown = items.filter(pa.array(slots < 0)).sort_by("row")
    num_unknown = int(unknown["num_events"].to_numpy().sum())
    if num_unknown and not skip_unknown:
        raise UserError(_refusal(source.file, unknown, num_unknown, dataset))
    table = pa.table({"item": items["item"], "slot": pa.array(slots, pa.int32())})
    name = ibis.util.gen_name("slots")
    return reader.con.create_table(name, ibis.memtable(table), temp=True), num_unknown


def _refusal(path: Path, unknown: pa.Table, num_unknown: int, dataset: Dataset) -> str:
    """The message that names the first unknown item and counts all of them."""
    return (
        f"{path}: row {unknown['row'][0].as_py() + 1} of the histories: item "
        f"{shown(unknown['item'][0].as_py())} is not in the catalog of {dataset.path}; "
        f"{num_unknown:,} events name {len(unknown):,} items that it does not hold; "
        "leave out such events with --unknown skip"
    )


def _moments(
    source: Source,
    name: str,
    found: ColumnSurvey,
    dataset: Dataset,
    report: Callable[[str], None],
) -> Mapping[str, Any]:
    """The expression of a column in unix seconds; of times, also what sorts events."""
    moment, numeric = moments_of(source, name, found, TIMES_WANTED)
    unit: TimeUnit = "seconds"
    if numeric:
        with reading(source.file):
            ends = source.events.aggregate(least=moment.min(), most=moment.max())
            least, most = (one[0].as_py() for one in ends.to_pyarrow().columns)
        where = f"{source.file}: column {name!r}"
        form = date_form(source, moment, least, most)
        unit = unit_of_histories(where, least, most, form, dataset, report)
        require(
            max(abs(least), abs(most)) * SECONDS[unit] < 2**62,
            f"{where} holds times up to {max(abs(least), abs(most))} {unit} from 1970, "
            f"{TIMES_WANTED}",
        )
    exact = {"moment": moment} if name == "time" else {}
    return {name: seconds(moment, unit), **exact}
