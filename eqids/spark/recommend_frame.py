"""A model's recommendations for a Spark table, by `mapInPandas`.

EqIDs is the model of each worker. Spark distributes users, retries tasks and writes
results.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eqids.config import TimeUnit, UserError, require
from eqids.data import Dataset
from eqids.data.files import ITEMS_FILE
from eqids.data.ids import shown
from eqids.data.raw.history_units import unit_of_histories
from eqids.data.raw.times import SECONDS
from eqids.inference.allowed_items import allowed_items
from eqids.inference.histories import History, Unknown
from eqids.inference.load_recommender import load
from eqids.inference.open import dataset_of_path
from eqids.inference.recommender import Recommender

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_USERS_OF_CALL = 1024
"""Users whose recommendations are computed and returned at once."""


@dataclass(frozen=True)
class FrameJob:
    """What a worker has to know."""

    checkpoint: str
    data_dir: str | None
    llama_path: str | None
    k: int
    filter_seen: bool
    allow: tuple[Any, ...] | None
    deny: tuple[Any, ...] | None
    unknown: Unknown
    request_time: int | None


def recommend(
    frame: "DataFrame",
    checkpoint: Path | str,
    k: int = 10,
    *,
    filter_seen: bool = True,
    allow: Iterable[Any] | None = None,
    deny: Iterable[Any] | None = None,
    unknown: Unknown = "refuse",
    request_time: int | None = None,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    num_partitions: int | None = None,
) -> "DataFrame":
    """Returns the k most probable next items of every user of a Spark table.

    Each Python worker of Spark opens the model once, and keeps it for later tasks.
    `spark.task.cpus` says how many cores a worker has; a worker has a batch of Arrow
    (`spark.sql.execution.arrow.maxRecordsPerBatch`), a user's history and the
    recommendations of up to 1,024 users in memory.

    Args:
        frame: one row an event, with the columns user, item and time (numbers, dates
            or timestamps). Events of a user with equal times are ordered by item.
        checkpoint: as for `eqids.load`; a path that all workers reach.
        k: the number of items.
        filter_seen: do not recommend items of the history.
        allow: ids of the only items to recommend, by default all.
        deny: ids of items never to recommend.
        unknown: what to do with items that the catalog does not hold: "refuse" fails
            the task that meets one, "skip" leaves them out.
        request_time: when the next items are requested, in unix seconds, for a model
            that was trained with `--request_time`; by default now.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the folder of a frozen Llama, by default the one of the run.
        num_partitions: number of tasks, by default `spark.sql.shuffle.partitions`.

    Returns:
        A DataFrame, computed when it is used, with the columns user, rank (from 1),
        item, title and probability; the rows of a user are together.

    Raises:
        UserError: the checkpoint or its dataset is missing, a column is missing or has
            another type, or k is not a whole number of 1 or more.
    """
    from pyspark.sql import functions

    require(k >= 1, f"k is {k!r}, wanted a whole number of 1 or more")
    for name in ("user", "item", "time"):
        require(
            name in frame.columns,
            f"the table has no column {name!r}: it has {', '.join(frame.columns)}; "
            "wanted user, item and time",
        )
    data, llama = (None if p is None else str(p) for p in (data_dir, llama_path))
    dataset = dataset_of_path(Path(checkpoint), None if data is None else Path(data))
    job = FrameJob(
        str(checkpoint), data, llama, int(k), filter_seen,
        None if allow is None else tuple(allow), None if deny is None else tuple(deny),
        unknown, request_time,
    )  # fmt: skip
    moment, unit = _moments(frame, dataset)
    events = frame.select("user", "item", moment.alias("time"))
    users = (functions.col("user"),)
    events = (
        events.repartition(*users)
        if num_partitions is None
        else events.repartition(num_partitions, *users)
    )
    events = events.sortWithinPartitions("user", "time", "item")
    # A division is exact where a product with 0.001 is not.
    factor = SECONDS[unit]
    seconds = functions.col("time") * factor.numerator / factor.denominator
    events = events.withColumn("time", functions.floor(seconds).cast("bigint"))
    user_type = frame.schema["user"].dataType.simpleString()
    item_type = _item_type(dataset)
    schema = (
        f"user {user_type}, rank int, item {item_type}, title string, "
        "probability double"
    )
    return events.mapInPandas(functools.partial(answers, job), schema)


def answers(job: FrameJob, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yields the recommendations of a partition whose rows are sorted by user and time.

    Args:
        job: the model, and what to compute.
        batches: columns user, item and time (unix seconds); a user may be in several.
    """
    recommender = _opened(job.checkpoint, job.data_dir, job.llama_path)
    histories: list[History] = []
    for user, rows in _whole_users(batches):
        histories.append(_history(recommender.dataset, user, rows, job.unknown))
        if len(histories) == _USERS_OF_CALL:
            yield _recommended(recommender, histories, job)
            histories = []
    if histories:
        yield _recommended(recommender, histories, job)


@functools.lru_cache(maxsize=1)
def _opened(
    checkpoint: str, data_dir: str | None, llama_path: str | None
) -> Recommender:
    """The model of this worker, which stays open between tasks."""
    return load(checkpoint, data_dir, llama_path)


def _whole_users(batches: Iterator[pd.DataFrame]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The rows of each user, whole, if batches end inside a user's rows."""
    held: pd.DataFrame | None = None
    for batch in batches:
        rows = batch if held is None else pd.concat([held, batch], ignore_index=True)
        if not len(rows):
            continue
        user = rows["user"].to_numpy()
        ends = [*(np.flatnonzero(user[1:] != user[:-1]) + 1)]
        starts = [0, *ends]
        for start, end in zip(starts, ends, strict=False):
            yield user[start], rows.iloc[start:end]
        held = rows.iloc[starts[-1] :]
    if held is not None:
        yield held["user"].iloc[0], held


def _history(
    dataset: Dataset, user: Any, rows: pd.DataFrame, unknown: Unknown
) -> History:
    slots = dataset.find_items(rows["item"])
    known = slots >= 0
    if unknown == "refuse" and not known.all():
        item = rows["item"].iloc[int(np.argmin(known))]
        raise UserError(
            f"user {shown(user)} has item {shown(item)}, which is not in the catalog "
            f"of {dataset.path}; leave out such events with unknown='skip'"
        )
    times = None
    if dataset.times is not None:
        times = rows["time"].to_numpy(np.int64)[known]
    return History(user, slots[known], times)


def _recommended(
    recommender: Recommender, histories: list[History], job: FrameJob
) -> pd.DataFrame:
    dataset = recommender.dataset
    allowed = allowed_items(dataset, job.allow, job.deny, lambda message: None)
    given: list[History] = histories
    if job.request_time is not None:
        times = job.request_time
        given = recommender.asked_at(given, times, "request_time", lambda _: None)
    parts = recommender.search(
        given, job.k, filter_seen=job.filter_seen, allowed=allowed.places
    )
    return pd.concat(list(parts), ignore_index=True)


def _moments(frame: "DataFrame", dataset: Dataset) -> tuple["Column", TimeUnit]:
    """The column of times as numbers, and their unit."""
    from pyspark.sql import functions, types

    time, kind = functions.col("time"), frame.schema["time"].dataType
    if isinstance(kind, types.DateType | types.TimestampType | types.TimestampNTZType):
        micros = functions.unix_micros(time.cast("timestamp"))
        return micros / functions.lit(1e6), "seconds"
    require(
        isinstance(kind, types.NumericType),
        f"column 'time' of the table is {kind.simpleString()}, wanted numbers, dates "
        "or timestamps: cast it, such as by to_timestamp",
    )
    number = time.cast("double")
    least, most = frame.agg(functions.min(number), functions.max(number)).first() or (
        None,
        None,
    )
    require(least is not None, "the table has no rows with a time, wanted some")
    assert least is not None and most is not None
    where = "the table: column 'time'"
    return number, unit_of_histories(where, least, most, None, dataset, lambda _: None)


def _item_type(dataset: Dataset) -> str:
    """The type of the catalog's ids, as Spark names it."""
    from pyspark.sql.pandas.types import from_arrow_type

    kind = pq.read_schema(dataset.path / ITEMS_FILE).field("item").type
    if pa.types.is_unsigned_integer(kind):
        return "decimal(20,0)" if kind == pa.uint64() else "bigint"
    return from_arrow_type(kind).simpleString()
