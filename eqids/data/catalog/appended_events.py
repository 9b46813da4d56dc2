"""Adds new events to those of a dataset, whose own source is not read again."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Int64

from eqids.config import UserError, require
from eqids.data.dataset import Dataset
from eqids.data.files import ITEMS_FILE, USERS_FILE, read_parquet
from eqids.data.ids import Ids, shown
from eqids.data.info import Counts
from eqids.data.raw.interactions import Interactions
from eqids.data.raw.ordered_events import (
    event_array,
    in_hash_order,
    is_sorted_by_id,
    num_ties,
)

_CHUNK = 1 << 22
"""Old events that are copied at a time."""


@dataclass(frozen=True)
class _Joined:
    """The ids of both, in their order, and the numbers there of old and new ones."""

    ids: pa.ChunkedArray
    of_old: Int64[np.ndarray, " old"]
    of_new: Int64[np.ndarray, " new"]


@dataclass(frozen=True)
class _History:
    """Events of users, sorted by user and time."""

    user: Int64[np.ndarray, " event"]
    time: Int64[np.ndarray, " event"]
    item: Int32[np.ndarray, " event"]


def check_appendable(old: Dataset) -> None:
    """Requires that a dataset holds all that is needed to add events to it.

    Raises:
        UserError: events were dropped that new ones could bring back, or a column
            ordered them that the dataset does not hold.
    """
    protocol = old.info.protocol
    least = max(protocol.min_user_interactions, protocol.min_item_interactions)
    again = "prepare all events at once, with --source and --catalog"
    require(
        least == 1,
        f"{old.path} has no events of users or items with fewer than {least}, which "
        f"may have enough with the new ones; {again}",
    )
    require(
        protocol.order_column is None,
        f"{old.path} was ordered by column {protocol.order_column!r}, which it does "
        f"not hold; {again}",
    )


def appended(old: Dataset, new: Interactions, folder: Path) -> Interactions:
    """Returns the events of a dataset and new ones, as if one source held both.

    Events of users without new ones are copied. The others are merged by time, old
    ones first in ties; a new event that repeats another is dropped.

    Args:
        old: the dataset.
        new: events whose ties are in the order of their file.
        folder: where files of large arrays are.

    Raises:
        UserError: one has times and the other has none, or an id of `new` has another
            type.
    """
    require(
        (old.times is None) == (new.time is None),
        f"{old.path} has {'no' if old.times is None else ''} times and the new events "
        f"have {'no' if new.time is None else ''}: wanted both with times, or neither",
    )
    users = _joined(old, "user", USERS_FILE, None, new.user_ids)
    slots, items = np.unique(old.slots), read_parquet(old.path / ITEMS_FILE)
    used = items.filter(pc.is_in(items["slot"], pa.array(slots)))
    named = _joined(old, "item", ITEMS_FILE, used["item"], new.items["item"])
    number = np.full(old.num_slots, -1, np.int32)
    number[used["slot"].to_numpy()] = named.of_old
    merged, num_dropped = _merged(old, new, users, named, number)
    item, time, offsets = _assembled(old, merged, users, number, folder)
    found = replace(
        new,
        user_ids=users.ids,
        items=_item_rows(named, used, new.items),
        item=item,
        time=time,
        offsets=offsets,
        counts=_counts(old.info.counts, new.counts, num_dropped),
    )
    return found if time is None else _in_order_of_ties(found, old)


def _joined(
    old: Dataset,
    name: str,
    file: str,
    own: pa.ChunkedArray | None,
    new: pa.ChunkedArray,
) -> _Joined:
    own = read_parquet(old.path / file, [name])[name] if own is None else own
    row, ids = Ids(own).read(new)
    wrong = np.flatnonzero(ids.is_null())
    if len(wrong):
        raise UserError(
            f"{name} {shown(new[int(wrong[0])].as_py())} of the new events is no id of "
            f"the type of {old.path}, {own.type}"
        )
    added = ids.filter(pa.array(row < 0))
    every = pa.chunked_array([*own.chunks, *added.chunks], own.type)
    order = pc.sort_indices(every).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    of_new = np.where(row < 0, len(own) + np.cumsum(row < 0) - 1, row)
    return _Joined(every.take(order), place[: len(own)], place[of_new])


def _merged(
    old: Dataset, new: Interactions, users: _Joined, named: _Joined, number: np.ndarray
) -> tuple[_History, int]:
    """All events of users who have new ones, and the number of repeated new ones."""
    fresh = np.repeat(users.of_new, np.diff(new.offsets))
    has_new = np.zeros(len(users.ids), np.bool_)
    has_new[users.of_new] = True
    rows = np.flatnonzero(has_new[users.of_old])
    lengths = np.diff(old.offsets)[rows]
    before = np.repeat(old.offsets[rows] - np.cumsum(lengths) + lengths, lengths)
    before += np.arange(len(before))
    user = np.concatenate([np.repeat(users.of_old[rows], lengths), fresh])
    item = np.concatenate([number[old.slots[before]], named.of_new[new.item]])
    time = np.zeros(len(user), np.int64)
    if old.times is not None and new.time is not None:
        time = np.concatenate([old.times[before], new.time])
    # Stable: old events are before new ones, and each in their order.
    order = np.lexsort((time, user))
    user, time, item = user[order], time[order], item[order].astype(np.int32)
    if old.times is None:
        return _History(user, time, item), 0
    by_event = np.lexsort((item, time, user))
    same = np.zeros(len(user), np.bool_)
    same[by_event[1:]] = np.all(
        [x[by_event[1:]] == x[by_event[:-1]] for x in (user, time, item)], axis=0
    )
    kept = ~same
    return _History(user[kept], time[kept], item[kept]), int(same.sum())


def _assembled(
    old: Dataset, merged: _History, users: _Joined, number: np.ndarray, folder: Path
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Items, times and offsets of all users."""
    own = np.diff(old.offsets)
    length = np.zeros(len(users.ids), np.int64)
    length[users.of_old] = own
    several = np.bincount(merged.user, minlength=len(length))
    has_new = several > 0
    length = np.where(has_new, several, length)
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    item = event_array(int(offsets[-1]), np.int32, folder)
    timed = old.times is not None
    time = event_array(int(offsets[-1]), np.int64, folder) if timed else None
    begin = np.concatenate([[0], np.cumsum(several)])[merged.user]
    place = offsets[merged.user] + np.arange(len(merged.user)) - begin
    item[place] = merged.item
    if time is not None:
        time[place] = merged.time
    shift = offsets[users.of_old] - old.offsets[:-1]
    for start in range(0, len(old.slots), _CHUNK):
        event = np.arange(start, min(start + _CHUNK, len(old.slots)))
        row = np.searchsorted(old.offsets, event, side="right") - 1
        copied = ~has_new[users.of_old[row]]
        event, place = event[copied], (event + shift[row])[copied]
        item[place] = number[old.slots[event]]
        if time is not None and old.times is not None:
            time[place] = old.times[event]
    return item, time, offsets


def _item_rows(named: _Joined, used: pa.Table, new: pa.Table) -> pa.Table:
    """Item, title and text; old items keep theirs."""
    columns = {}
    source = np.full(len(named.ids), -1, np.int64)
    source[named.of_new] = used.num_rows + np.arange(new.num_rows)
    source[named.of_old] = np.arange(used.num_rows)
    for name in ("title", "text"):
        both = pa.chunked_array(
            [
                part
                for table in (used, new)
                for part in table[name].cast(pa.string()).chunks
            ],
            pa.string(),
        )
        columns[name] = both.take(pa.array(source))
    return pa.table({"item": named.ids, **columns})


def _counts(old: Counts, new: Counts, num_dropped: int) -> Counts:
    """What both sources held; the file of titles is that of the new one."""
    both = ("rows_read", "missing_dropped", "rated_lower")
    sums = {name: getattr(old, name) + getattr(new, name) for name in both}
    dropped = old.duplicates_dropped + new.duplicates_dropped + num_dropped
    return replace(new, **sums, duplicates_dropped=dropped)


def _in_order_of_ties(found: Interactions, old: Dataset) -> Interactions:
    """Counts ties, and orders them by the rule that holds for all events together."""
    time = found.time
    assert time is not None
    tied, ascending = num_ties(found.offsets, time, found.item)
    counts = replace(found.counts, tied_neighbours=tied, ascending_ties=ascending)
    found = replace(found, counts=counts)
    was_hashed = old.info.protocol.ties == "seeded_hash"
    if not (was_hashed or is_sorted_by_id(tied, ascending)):
        return found
    in_hash_order(found.offsets, time, found.item, old.info.protocol.seed)
    return replace(found, ties="seeded_hash")
