"""Orders events by user and time, and reads them in parts into arrays on disk."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int32, Int64, Shaped

from eqids.config import TimeUnit
from eqids.data.raw.columns import seconds

_PRIME = 2**31 - 1
_ID_ORDER = 0.9
_FEWEST_TIES = 10
"""Fewest ties that distinguish an order by id from chance."""
_MAPPED_BYTES = 1 << 26
"""Arrays from this size on are on disk, and the system keeps what is used in memory."""


@dataclass(frozen=True)
class OrderedEvents:
    """All events in the order of users, and of each user's history."""

    item: Int32[np.ndarray, " event"]
    """The number of each event's item."""
    time: Int64[np.ndarray, " event"] | None
    """Unix seconds, or none."""
    per_user: Int64[np.ndarray, " user"]
    """Number of events of each user."""
    has_events: Bool[np.ndarray, " item"]
    """Whether each item has an event."""
    num_repeated: int
    """Rows that were left out, because a row before has their user, item and key."""
    tied: int
    """Neighbouring events of one user with equal times or ranks."""
    ascending: int
    """Those of these neighbours whose items ascend."""


def sort_key(events: ir.Table) -> str | None:
    """Returns the column that orders a user's events, or none if the file's order
    does."""
    return next((name for name in ("rank", "when") if name in events.columns), None)


def ordered(
    events: ir.Table, unit: TimeUnit | None, seed: int | None, by_row: bool
) -> ir.Table:
    """Sorts events by user, time or rank, and in ties by a hash or by the file's order.

    Args:
        events: numbers of user and item, `row`, and `when` or `rank`.
        unit: of `when`, or none without times.
        seed: of the hash that orders ties, or none for the file's order.
        by_row: whether rows have an order; otherwise equal hashes are ordered by item.

    Returns:
        user, item and, if any, time in seconds and the key that sorts a user's events,
        unless it is the time.
    """
    order, key = [events["user"]], sort_key(events)
    columns = {"user": events["user"], "item": events["item"]}
    if unit is not None:
        columns["time"] = seconds(events["when"], unit)
    if key is not None:
        whole_seconds = unit == "seconds" and events["when"].type().is_integer()
        if key != "when" or not whole_seconds:
            columns["key"] = events[key]
        order.append(events[key])
        if seed is not None:
            user, item = (events[name].cast("int64") for name in ("user", "item"))
            order.append(_hash(user, item, seed))
    order.append(events["row"] if by_row else events["item"])
    return events.order_by(order).select(**columns)


def _hash(user: Any, item: Any, seed: int) -> Any:
    """A pseudo-random number per (user, item), so that each user has another order of
    items.

    It is a product of affine hashes modulo a prime, which every engine can compute.
    """
    a, b, c, d = (int(x) for x in np.random.default_rng(seed).integers(1, _PRIME, 4))
    of_user = (user * a + b) % (_PRIME - 1) + 1
    of_item = (item * c + d) % _PRIME
    return (of_user * of_item) % _PRIME


def read_parts(
    parts: Iterable[pa.RecordBatch],
    names: Sequence[str],
    num_rows: int,
    num_users: int,
    num_items: int,
    folder: Path,
    distinct: bool,
) -> OrderedEvents:
    """Reads the rows of `ordered`, in their order, a part at a time.

    Args:
        parts: the rows.
        names: the columns.
        num_rows: number of all rows.
        num_users: users, with events or without.
        num_items: items, with events or without.
        folder: where files of large arrays are.
        distinct: whether to keep all rows; otherwise of rows with equal user, item and
            key only the first.
    """
    items = event_array(num_rows, np.int32, folder)
    times = event_array(num_rows, np.int64, folder) if "time" in names else None
    per_user = np.zeros(num_users, np.int64)
    has_events = np.zeros(num_items, np.bool_)
    at, read, tied, ascending = 0, 0, 0, 0
    key = next((name for name in ("key", "time") if name in names), None)
    for rows in map(_columns, parts) if key is None else _in_whole_groups(parts, key):
        read += len(rows["user"])
        if key is not None:
            rows = rows if distinct else _without_repeats(rows, key)
            ties = _ties(rows, key)
            same = ties & (rows["item"][1:] > rows["item"][:-1])
            tied, ascending = tied + int(ties.sum()), ascending + int(same.sum())
        user, item = rows["user"], rows["item"]
        items[at : at + len(item)] = item
        if times is not None:
            times[at : at + len(item)] = rows["time"]
        if len(user):
            counted = np.bincount(user - user[0])
            per_user[user[0] : user[0] + len(counted)] += counted
        has_events[item] = True
        at += len(item)
    assert read == num_rows, f"{read} rows, wanted {num_rows}"
    times = None if times is None else times[:at]
    return OrderedEvents(
        items[:at], times, per_user, has_events, read - at, tied, ascending
    )


_Rows = Mapping[str, np.ndarray]
"""Columns of some rows of `ordered`."""


def _in_whole_groups(parts: Iterable[pa.RecordBatch], key: str) -> Iterator[_Rows]:
    """Cuts rows where the user or the key changes, and nowhere else."""
    rest: _Rows | None = None
    for part in parts:
        rows = _columns(part)
        if rest is not None:
            rows = {name: np.append(rest[name], rows[name]) for name in rows}
        changes = np.flatnonzero(~_ties(rows, key))
        cut = changes[-1] + 1 if len(changes) else 0
        rest = {name: column[cut:] for name, column in rows.items()}
        yield {name: column[:cut] for name, column in rows.items()}
    if rest is not None:
        yield rest


def _without_repeats(rows: _Rows, key: str) -> _Rows:
    """Drops rows if a row before has the same user, key and item."""
    some, group = _groups(_ties(rows, key))
    # Sorted by group and item, and in them by row.
    order = np.lexsort((rows["item"][some], group))
    item, group = rows["item"][some[order]], group[order]
    repeats = (item[1:] == item[:-1]) & (group[1:] == group[:-1])
    if not repeats.any():
        return rows
    kept = np.ones(len(rows["user"]), np.bool_)
    kept[some[order[1:][repeats]]] = False
    return {name: column[kept] for name, column in rows.items()}


def _ties(rows: _Rows, key: str) -> np.ndarray:
    """bool [row - 1]: whether the next row has the same user and key."""
    user, moment = rows["user"], rows[key]
    return (user[1:] == user[:-1]) & (moment[1:] == moment[:-1])


def _groups(ties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are tied with a neighbour, and the number of each one's group.

    Args:
        ties: bool [row - 1]: whether the next row is tied with a row.
    """
    before, after = np.append(False, ties), np.append(ties, False)
    some = np.flatnonzero(before | after)
    return some, np.cumsum(~before[some])


def _columns(part: pa.RecordBatch) -> _Rows:
    return {name: _column(part, name) for name in part.schema.names}


def _column(part: pa.RecordBatch, name: str) -> np.ndarray:
    return part.column(name).to_numpy(zero_copy_only=False)


def event_array(size: int, dtype: type, folder: Path) -> Shaped[np.ndarray, " event"]:
    """Returns an array to fill; a large one is in a file, which is removed when nothing
    uses it.

    Args:
        size: number of events.
        dtype: of the values.
        folder: where the file is.
    """
    if size * np.dtype(dtype).itemsize < _MAPPED_BYTES:
        return np.empty(size, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        _allocate(file.fileno(), size * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(file, dtype, "r+", shape=(size,)))


def _allocate(file: int, num_bytes: int) -> None:
    """Makes a file of so many bytes; a full disk is an error here, and not where the
    mapped file is written to, which would end the process."""
    os.truncate(file, num_bytes)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, num_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise  # others: a file system that cannot


def is_sorted_by_id(tied: int, ascending: int) -> bool:
    """Returns whether a file seems to be sorted by id, so that a hash has to order its
    ties.

    Args:
        tied: neighbouring events of one user with equal times or ranks.
        ascending: those of these whose items ascend.
    """
    return tied >= _FEWEST_TIES and ascending > _ID_ORDER * tied


def num_ties(
    offsets: Int64[np.ndarray, " bound"],
    time: Int64[np.ndarray, " event"],
    item: Int32[np.ndarray, " event"],
) -> tuple[int, int]:
    """Returns the number of neighbours with equal times, and of those of them whose
    items ascend.

    Args:
        offsets: where each history starts and ends.
        time: of events.
        item: of events.
    """
    tied = _tied(offsets, time)
    return int(tied.sum()), int((tied & (item[1:] > item[:-1])).sum())


def in_hash_order(
    offsets: Int64[np.ndarray, " bound"],
    time: Int64[np.ndarray, " event"],
    item: Int32[np.ndarray, " event"],
    seed: int,
) -> None:
    """Orders the items of tied events by the hash of `ordered`, in place.

    Args:
        offsets: where each history starts and ends.
        time: of events.
        item: of events; the numbers of all items.
        seed: of the hash.
    """
    some, group = _groups(_tied(offsets, time))
    user = np.searchsorted(offsets, some, side="right") - 1
    order = np.lexsort((_hash(user, item[some].astype(np.int64), seed), group))
    item[some] = item[some[order]]


def _tied(offsets: np.ndarray, time: np.ndarray) -> np.ndarray:
    """bool [event - 1]: whether the next event is the same user's, at the same time."""
    tied = time[1:] == time[:-1]
    tied[offsets[1:-1] - 1] = False
    return tied


def renumber(item: np.ndarray, number: np.ndarray) -> None:
    """Replaces numbers of items by others, in place.

    Args:
        item: int32 [event].
        number: int32 [item], the new number of each.
    """
    step = _MAPPED_BYTES // 4
    for start in range(0, len(item), step):
        item[start : start + step] = number[item[start : start + step]]
