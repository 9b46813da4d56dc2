"""Divides sorted histories into parts, and reads one part at a time."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64

from eqids.inference.histories import History, asked_once

_MOST_EVENTS = 4_000_000
"""A part with this many events ends after the user who reaches it."""


@dataclass(frozen=True)
class PartBounds:
    """Where the parts of a sorted file begin."""

    rows: Sequence[int]
    """The first row of each part, and the number of rows."""
    users: Sequence[int]
    """The number of users before each part, and of all."""


@dataclass(frozen=True)
class HistoryPart:
    """The histories of one part."""

    users: pa.Array
    """Ids [user], ascending."""
    histories: Sequence[History]
    """Of the same users, which are named by their index; items that the catalog does
    not hold are left out."""


def part_bounds(file: Path, users_of_part: int) -> PartBounds:
    """Divides a sorted file: parts hold whole users.

    Args:
        file: see `sort_histories`.
        users_of_part: most users of a part.
    """
    rows, users = [0], [0]
    seen, num_users, last = 0, 0, None
    for batch in pq.ParquetFile(file).iter_batches(columns=["user"]):
        column = batch["user"]
        starts = seen + _first_rows(column, last)
        while True:
            # The next part begins with the first user for whom this one has no space.
            full = users[-1] + users_of_part - num_users
            long = int(np.searchsorted(starts, rows[-1] + _MOST_EVENTS))
            following = max(min(full, long), users[-1] + 1 - num_users)
            if following >= len(starts):
                break
            rows.append(int(starts[following]))
            users.append(num_users + following)
        seen, num_users, last = seen + len(column), num_users + len(starts), column[-1]
    return PartBounds([*rows, seen], [*users, num_users])


def read_part(file: Path, bounds: PartBounds, part: int) -> HistoryPart:
    """Reads the histories of a part.

    Args:
        file: the sorted file.
        bounds: its parts.
        part: the number of the part, from 0.

    Raises:
        UserError: the request times of a user differ, or are before an event.
    """
    table = _rows(pq.ParquetFile(file), bounds.rows[part], bounds.rows[part + 1])
    ids = table["user"].combine_chunks()
    starts = _first_rows(ids, None)
    users = ids.take(pa.array(starts))
    spans = list(itertools.pairwise([*starts.tolist(), len(ids)]))

    def of_users(name: str) -> Sequence[np.ndarray | None]:
        if name not in table.column_names:
            return [None] * len(starts)
        values = table[name].to_numpy()
        return [values[start:end] for start, end in spans]

    columns = map(of_users, ("slot", "time", "request_time"))
    histories = [
        _history(number, users[number].as_py(), *one)
        for number, one in enumerate(zip(*columns, strict=True))
    ]
    return HistoryPart(users, histories)


def _first_rows(
    column: pa.Array, before: pa.Scalar | None
) -> Int64[np.ndarray, " user"]:
    """The rows at which another user begins."""
    changes = np.ones(len(column), np.bool_)
    changes[1:] = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    changes[0] = before is None or column[0] != before
    return np.flatnonzero(changes)


def _rows(file: pq.ParquetFile, start: int, end: int) -> pa.Table:
    """Reads a range of rows."""
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    first, last = np.searchsorted(ends, [start, end - 1], side="right")
    table = file.read_row_groups(range(first, last + 1))
    before = int(ends[first]) - sizes[first]
    return table.slice(start - before, end - start)


def _history(
    number: int,
    user: Hashable,
    slots: Int32[np.ndarray, " event"],
    times: Int64[np.ndarray, " event"] | None,
    asked: Int64[np.ndarray, " event"] | None,
) -> History:
    """The history of one user, without the events of unknown items."""
    requested = None
    if asked is not None:
        history = asked_once(History(user, slots, times), asked, "--input")
        requested = history.request_time
    kept = slots >= 0
    if not kept.all():
        slots, times = slots[kept], None if times is None else times[kept]
    return History(number, slots, times, requested)
