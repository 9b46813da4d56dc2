"""Reads histories from lists of item ids, tables, `History` objects or a mix."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from eqids.config import UserError, require
from eqids.data import Dataset
from eqids.data.ids import distinct_values, shown
from eqids.inference.history_times import event_times
from eqids.inference.id_lists import id_list, require_list

Unknown = Literal["refuse", "skip"]
"""What to do with items that the catalog does not hold."""


@dataclass(frozen=True)
class History:
    """What one user did, oldest first; without items, popularity answers it."""

    user: Hashable
    """The user's id, or the index of a list."""
    slots: np.ndarray
    """int32 [event]: the items, by their slots."""
    times: np.ndarray | None = None
    """int64 [event]: unix seconds, or none."""
    request_time: int | None = None
    """When the next item is requested, in unix seconds; by default now. Only a model
    that was trained with `--request_time` reads it."""


@dataclass(frozen=True)
class _GivenHistories:
    """The histories of one list or table, unknown items included."""

    histories: Sequence[History]
    """With slot -1 for unknown items."""
    slots: np.ndarray
    """int32 [event]: in the order in which the events were given."""
    items: Sequence[Any] | np.ndarray
    """The ids of the events, in that order."""
    where: Callable[[int], str]
    """Returns what messages call an event, by its index in that order."""


def read_histories(
    dataset: Dataset,
    histories: Any,
    unknown: Unknown,
    report: Callable[[str], None],
    file: Path | None = None,
    request_time: bool = False,
) -> tuple[list[History], int]:
    """Reads the histories that `Recommender.recommend` receives.

    Args:
        dataset: holds the items.
        histories: a table (see `recommend`), one `History`, or a list of lists of
            item ids, of `History` objects and of tables. The user of a list is its
            index.
        unknown: refuse events with an item that the catalog does not hold, or leave
            them out; a history may then be empty.
        report: receives warnings.
        file: the file that a table was read from, for messages.
        request_time: read the column request_time of tables that have it.

    Returns:
        The histories, and how many events were left out.

    Raises:
        UserError: an item is unknown, or an argument is no such list or table; the
            message says which row or list.
    """
    given = list(_given(dataset, histories, report, file, request_time))
    slots = np.concatenate([one.slots for one in given]) if given else np.zeros(0)
    left_out = int((slots < 0).sum())
    if left_out and unknown == "refuse":
        raise UserError(_refusal(dataset, given, left_out, len(slots)))
    found = [history for one in given for history in one.histories]
    require(len(found) > 0, "there are no histories, wanted at least one")
    if left_out:
        found = [_without_unknown(history) for history in found]
    return found, left_out


def with_request_time(history: History, seconds: int, name: str) -> History:
    """Returns a history whose next item is requested at a given time.

    Args:
        history: with times, unless it is empty.
        seconds: unix seconds.
        name: of the history or its table, for messages.

    Raises:
        UserError: the history has no times, or its last event is later.
    """
    if len(history.slots):
        user = shown(history.user)
        require(
            history.times is not None,
            f"{name}: user {user} has a request time and no times of events, wanted "
            "both: the model reads the time since the last event",
        )
        assert history.times is not None
        last = int(history.times[-1])
        require(
            seconds >= last,
            f"{name}: the request time of user {user} is {seconds} and the last event "
            f"is at {last}, wanted unix seconds that are not before it",
        )
    return replace(history, request_time=int(seconds))


def asked_once(history: History, seconds: np.ndarray, name: str) -> History:
    """Returns a user's history with the one time that all its rows give the request.

    Raises:
        UserError: the rows give several times, or see `with_request_time`.
    """
    require(
        bool((seconds == seconds[0]).all()),
        f"{name}: column 'request_time' has {len(np.unique(seconds))} values for user "
        f"{shown(history.user)}, wanted the same in all rows of a user",
    )
    return with_request_time(history, int(seconds[0]), name)


def _without_unknown(history: History) -> History:
    kept = history.slots >= 0
    if kept.all():
        return history
    times = None if history.times is None else history.times[kept]
    return replace(history, slots=history.slots[kept], times=times)


def _refusal(
    dataset: Dataset, given: Sequence[_GivenHistories], left_out: int, num_events: int
) -> str:
    """Returns a message that names the first unknown item and counts all of them."""
    one = next(one for one in given if (one.slots < 0).any())
    event = int((one.slots < 0).argmax())
    names = {
        shown(one.items[int(at)])
        for one in given
        for at in np.flatnonzero(one.slots < 0)
    }
    how_many = (
        f"; {left_out:,} of {num_events:,} events name {len(names):,} items that it "
        "does not hold"
        if left_out > 1
        else ""
    )
    return (
        f"{one.where(event)}: item {shown(one.items[event])} is not in the catalog of "
        f"{dataset.path}{how_many}; leave out such events with --unknown skip (in "
        "Python unknown='skip')"
    )


def _given(
    dataset: Dataset,
    histories: Any,
    report: Callable[[str], None],
    file: Path | None,
    request_time: bool,
) -> Iterator[_GivenHistories]:
    def of_table(table: Any, name: str, where: Callable[[int], str]) -> _GivenHistories:
        frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
        if not request_time:
            frame = frame.drop(columns="request_time", errors="ignore")
        return _of_table(dataset, frame, name, report, where)

    if isinstance(histories, pd.DataFrame | pa.Table | pa.RecordBatch):
        name = "histories" if file is None else str(file)
        yield of_table(histories, name, _rows_of("the histories", file))
        return
    if isinstance(histories, History):
        histories = [histories]
    require_list("histories", histories, "lists of item ids")
    require(
        not hasattr(histories, "__dataframe__"),
        f"histories is a table of {type(histories).__module__.split('.')[0]}, wanted "
        "one of pandas or pyarrow",
    )
    for number, one in enumerate(histories):
        name = f"histories[{number}]"
        if isinstance(one, History):
            yield _checked(dataset, one, name)
        elif isinstance(one, pd.DataFrame | pa.Table | pa.RecordBatch):
            yield of_table(one, name, _rows_of(name))
        else:
            items = id_list(name, one)
            slots = dataset.find_items(items)
            read = [History(number, slots)]
            yield _GivenHistories(read, slots, items, _index_in(name))


def _index_in(name: str) -> Callable[[int], str]:
    return lambda event: f"{name}[{event}]"


def _rows_of(name: str, file: Path | None = None) -> Callable[[int], str]:
    begin = "" if file is None else f"{file}: "
    return lambda event: f"{begin}row {event + 1} of {name}"


def _checked(dataset: Dataset, history: History, name: str) -> _GivenHistories:
    """Checks that every slot of a history holds an item of the dataset."""
    slots, times = np.asarray(history.slots), history.times
    slots = slots if slots.size else slots.astype(np.int32)
    require(
        slots.ndim == 1 and slots.dtype.kind in "iu",
        f"{name} has slots of shape {slots.shape} and type {slots.dtype}, wanted a "
        "list of integers; item ids are given as a list, not as a History",
    )
    inside = (slots >= 0) & (slots < dataset.num_slots)
    safe = np.where(inside, slots, 0)
    used = dataset.item_valid.flat[safe] | dataset.retired.flat[safe]
    wrong = slots[~(inside & used)].tolist()
    require(
        not wrong,
        f"{name} names slot {wrong[0] if wrong else None}, wanted 0 to "
        f"{dataset.num_slots - 1}, a slot that holds an item of {dataset.path}; "
        "the history may belong to another dataset",
    )
    if times is not None:
        times = np.asarray(times)
        times = times if times.size else times.astype(np.int64)
        require(
            times.shape == slots.shape
            and times.dtype.kind in "iuf"
            and bool((np.abs(times.astype(np.float64)) < 2**62).all()),
            f"{name} has times of shape {times.shape} and type {times.dtype}, wanted "
            f"{len(slots)} finite unix seconds, one for each slot",
        )
        times = np.floor(times).astype(np.int64)
    whole = History(history.user, slots.astype(np.int32), times)
    if history.request_time is not None:
        whole = with_request_time(whole, history.request_time, name)
    return _GivenHistories([whole], whole.slots, whole.slots, _index_in(name))


def _of_table(
    dataset: Dataset,
    frame: pd.DataFrame,
    name: str,
    report: Callable[[str], None],
    where: Callable[[int], str],
) -> _GivenHistories:
    """Reads the histories of a table; users are in the order of their first events."""
    require(len(frame) > 0, f"{name}: no rows, wanted an event in each row")
    _require_columns(frame, name)
    items = frame["item"]
    slots = dataset.find_items(items)
    order, times = np.arange(len(frame)), None
    if "time" in frame.columns:
        found = event_times(frame["time"], name, dataset, report)
        order, times = found.order, found.seconds[found.order]
    users, user = distinct_values(frame["user"].iloc[order])
    # Groups the events by user, in order.
    by_user = np.argsort(user, kind="stable")
    ends = np.cumsum(np.bincount(user, minlength=len(users)))[:-1]
    parts = np.split(slots[order][by_user], ends)
    moments: Sequence[np.ndarray | None] = [None] * len(users)
    if times is not None:
        moments = np.split(times[by_user], ends)
    histories = [History(*one) for one in zip(users, parts, moments, strict=True)]
    if "request_time" in frame.columns:
        column = frame["request_time"]
        asked = event_times(column, name, dataset, report, "request_time").seconds
        found_times = np.split(asked[order][by_user], ends)
        histories = [
            asked_once(history, seconds, name)
            for history, seconds in zip(histories, found_times, strict=True)
        ]
    return _GivenHistories(histories, slots, items.to_numpy(), where)


def _require_columns(frame: pd.DataFrame, name: str) -> None:
    columns = list(map(str, frame.columns))
    for column in ("user", "item", "time", "request_time"):
        require(
            column in columns or column.endswith("time"),
            f"{name}: no column {column!r}, the columns are "
            f"{', '.join(columns) or 'none'}; wanted user, item and, if known, time",
        )
        require(
            columns.count(column) <= 1,
            f"{name}: {columns.count(column)} columns {column!r}, wanted one",
        )
        if column in ("user", "item"):
            _require_ids(frame[column], f"{name}: column {column!r}")


def _require_ids(ids: pd.Series, where: str) -> None:
    empty = ids.isna().to_numpy()
    require(
        not empty.any(),
        f"{where} is empty in {empty.sum():,} of {len(empty):,} rows, first in row "
        f"{empty.argmax() + 1}; wanted a value in every row",
    )
    if ids.dtype == object:
        nested = ids.map(pd.api.types.is_hashable).eq(False).to_numpy()
        row = int(nested.argmax())
        require(
            not nested.any(),
            f"{where} holds a {type(ids.iloc[row]).__name__} in row {row + 1}, wanted "
            "one id in every row",
        )
