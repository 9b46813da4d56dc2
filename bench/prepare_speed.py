"""Times the preparation of a dataset from generated events, beside pandas.

Users are ragged, items follow Zipf's law, and some times tie.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.catalogs import zipf_items
from bench.contender import Contender, Measured, measure_each, race
from bench.record import OURS, Curve, ResultRow, Section, find, ratio
from bench.storage_options import PrepareSpeedOptions
from eqids.config import PrepareConfig
from eqids.data.preparation import prepare
from eqids.data.raw.engine import engine
from eqids.data.raw.interactions import Interactions, read_interactions
from eqids.data.raw.sources import open_source
from eqids.data.raw.splits import leave_one_out

WHOLE, HISTORIES = "dataset folder", "histories"
PANDAS, SPARK = "pandas", "EqIDs on Spark"

MEANINGS = {
    "rows_per_second": "events that become a dataset folder in a second, the largest "
    "case: with item vectors, counts of successors, hashes and checks",
    "histories_per_second": "events that become ordered histories in a second",
    "pandas_ratio": "time of pandas / ours for the histories, the largest case of both",
    "spark_rows_per_second": "the same on Spark in these cores, its start included",
    "spark_driver_gb": "peak memory of Spark's JVM, which is driver and worker here",
    "peak_gb": "peak memory of the process that makes the dataset folder, in GB",
}
_ROWS = 10**6
"""Rows that are generated at a time."""


def measure(options: PrepareSpeedOptions) -> Section:
    """Returns the timings of every number of events."""
    works = [WHOLE, HISTORIES]
    if importlib.util.find_spec("pyspark") and shutil.which("java"):
        works.append(SPARK)
    cases = [
        (n, work)
        for n in options.measured
        for work in works
        if work != SPARK or n <= options.most_spark
    ]
    rows, notes = measure_each(measure_case, options, cases)
    return Section("prepare", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: PrepareSpeedOptions, case: tuple[int, str]) -> Measured:
    """Measures one number of events in this process: ours alone, or with pandas."""
    num_events, work = case
    with tempfile.TemporaryDirectory(prefix="bench-prepare-", dir=options.folder) as at:
        folder = Path(at)
        users, items = write_events(folder / "events.parquet", num_events, options.seed)
        config = PrepareConfig(
            source=f"parquet:{folder}/events.parquet", data_dir=folder / "data"
        )
        contenders = [Contender(OURS, WHOLE, lambda: _whole(config))]
        if work == SPARK:
            contenders = [_on_spark(config, options)]
        if work == HISTORIES:
            contenders = _with_pandas(config, folder, num_events <= options.most_pandas)
        sizes = {"events": num_events, "users": users, "items": items}
        rows = race(sizes, num_events, contenders, options)
    note = f"{num_events:,} events of {users:,} users and {items:,} items."
    return [_with_rate(row) for row in rows], [note] if work == WHOLE else []


def write_events(path: Path, num_events: int, seed: int) -> tuple[int, int]:
    """Writes events as Parquet; returns how many users and items there are.

    Args:
        path: the file, with the columns user_id, item_id and timestamp.
        num_events: events, 40 of a user on average.
        seed: of everything random.
    """
    num_users, num_items = max(4, num_events // 40), max(100, num_events // 500)
    rng = np.random.default_rng(seed)
    share = rng.lognormal(size=num_users)
    total = np.cumsum(share / share.sum())
    writer = None
    for start in range(0, num_events, _ROWS):
        number = min(_ROWS, num_events - start)
        columns = {
            "user_id": np.searchsorted(total, rng.random(number) * total[-1]),
            "item_id": zipf_items(num_items, number, seed + start),
            "timestamp": 1_600_000_000 + 1_500 * rng.integers(0, 20_000, number),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return num_users, num_items


def histories_by_pandas(path: Path) -> Mapping[str, np.ndarray]:
    """Returns what `histories` returns, as users of pandas make it.

    Args:
        path: what `write_events` wrote.
    """
    frame = pd.read_parquet(path).drop_duplicates()
    frame["user"] = frame["user_id"].astype("category").cat.codes
    frame["item"] = frame["item_id"].astype("category").cat.codes
    frame = frame.sort_values(["user", "timestamp"], kind="stable")
    length = frame.groupby("user").size().to_numpy()
    return {
        "item": frame["item"].to_numpy(np.int32),
        "time": frame["timestamp"].to_numpy(np.int64),
        "offsets": np.concatenate([[0], np.cumsum(length)]),
        "train_length": np.where(length >= 3, length - 2, length).astype(np.int32),
    }


def histories(config: PrepareConfig) -> Mapping[str, np.ndarray]:
    """Returns ordered histories and their split, as `prepare` makes them.

    Args:
        config: names the source.
    """
    found = _read(config)
    split = leave_one_out(found.offsets)
    assert found.time is not None
    return {
        "item": found.item,
        "time": found.time,
        "offsets": found.offsets,
        "train_length": split.train_length,
    }


def _read(config: PrepareConfig) -> Interactions:
    with engine() as reader:
        source = open_source(reader, config, _silent)
        return read_interactions(reader, source, config, _silent)


def _with_pandas(config: PrepareConfig, folder: Path, both: bool) -> list[Contender]:
    def saved(arrays: Callable[[], Mapping[str, np.ndarray]]) -> Callable[[], None]:
        def run() -> None:
            for name, array in arrays().items():
                np.save(folder / f"{name}.npy", array)

        return run

    ours = Contender(OURS, HISTORIES, saved(lambda: histories(config)))
    if not both:
        return [ours]
    events = folder / "events.parquet"
    peer = saved(lambda: histories_by_pandas(events))
    return [ours, Contender(PANDAS, HISTORIES, peer)]


def _on_spark(config: PrepareConfig, options: PrepareSpeedOptions) -> Contender:
    """The whole folder on Spark in this process's cores, and the memory of its JVM."""
    settings = replace(config, engine="spark", spark_master=f"local[{options.cores}]")
    facts: dict[str, float] = {}

    def run() -> None:
        from pyspark import SparkContext

        _whole(settings)
        gateway: Any = SparkContext._gateway
        status = Path(f"/proc/{gateway.proc.pid}/status").read_text()
        facts["driver GB"] = 1024 * int(status.split("VmHWM:")[1].split()[0]) / 1e9

    return Contender(SPARK, WHOLE, run, facts=facts)


def _whole(config: PrepareConfig) -> None:
    if config.data_dir is not None:
        shutil.rmtree(config.data_dir, ignore_errors=True)
    prepare(config, _silent)


def _silent(message: str) -> None:
    pass


def _with_rate(row: ResultRow) -> ResultRow:
    rate = {"events/s": row.units / row.seconds.median}
    return replace(row, facts={**row.facts, **rate})


def _keys(rows: list[ResultRow]) -> dict[str, float | None]:
    whole = [row for row in rows if (row.name, row.work) == (OURS, WHOLE)]
    spark = [row for row in rows if row.name == SPARK]
    ours = [row for row in rows if (row.name, row.work) == (OURS, HISTORIES)]
    peers = [row for row in rows if row.name == PANDAS]
    same = None if not peers else find(rows, OURS, HISTORIES, **peers[-1].case)
    peak = whole[-1].peak_bytes
    return {
        "rows_per_second": 1 / whole[-1].each,
        "histories_per_second": 1 / ours[-1].each,
        "pandas_ratio": ratio(peers[-1] if peers else None, same),
        "spark_rows_per_second": 1 / spark[-1].each if spark else None,
        "spark_driver_gb": spark[-1].facts["driver GB"] if spark else None,
        "peak_gb": None if peak is None else peak / 1e9,
    }


def _curve(rows: list[ResultRow]) -> Curve:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points = series.setdefault(f"{row.name}, {row.work}", [])
        points.append((row.case["events"], row.seconds.median))
    return Curve("Preparing a dataset", "events", "seconds", series)
