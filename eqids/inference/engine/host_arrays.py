"""The arrays of a batch on the host, as the programs take them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from eqids.config import MARKOV_ORDER
from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.prepared_query import PreparedQuery


def history_arrays(
    queries: Sequence[PreparedQuery],
    rows: int,
    length: int,
    starts: Sequence[int] | None = None,
) -> tuple[Mapping[str, Int32[np.ndarray, "batch seq"]], Int32[np.ndarray, " batch"]]:
    """Returns the fields of a `Batch`, and the last position of each row.

    Args:
        queries: at least one, none without items.
        rows: rows past the last query repeat the first.
        length: positions of a row.
        starts: the position of each history that its row begins with; by default 0.
    """
    starts = [0] * len(queries) if starts is None else starts
    batch = HostBatch.empty(rows, length, queries[0].row.request_gap is not None)
    arrays = {name: array for name, array in vars(batch).items() if array is not None}
    for name, array in arrays.items():
        for row, one, start in zip(array, queries, starts, strict=False):
            row[: one.length - start] = getattr(one.row, name)[0, start:]
        array[len(queries) :] = array[0]
    last = [one.length - start for one, start in zip(queries, starts, strict=True)]
    last += last[:1] * (rows - len(queries))
    return arrays, np.array(last, np.int32) - 1


def recent_array(
    queries: Sequence[PreparedQuery], rows: int
) -> Int32[np.ndarray, "batch recent"]:
    """Returns the last items of each history, newest first, as `recent_items` does.

    Rows past the last query have none.
    """
    recent = np.full((rows, MARKOV_ORDER), -1, np.int32)
    for row, one in zip(recent, queries, strict=False):
        items = one.row.items[0]
        newest = items[items >= 0][::-1][:MARKOV_ORDER]
        row[: len(newest)] = newest
    return recent


def exclude_array(
    queries: Sequence[PreparedQuery], rows: int, width: int
) -> Int32[np.ndarray, "batch n"]:
    """Returns the slots that each query leaves out, padded with -1."""
    exclude = np.full((rows, width), -1, np.int32)
    for row, one in zip(exclude, queries, strict=False):
        row[: len(one.left_out)] = one.left_out
    return exclude


def mask_array(
    queries: Sequence[PreparedQuery], rows: int
) -> Bool[np.ndarray, "batch cluster place"]:
    """Returns the places that each query may return; none past the last query."""
    allowed = np.zeros((rows, *queries[0].allow.allowed.shape), np.bool_)
    for row, one in zip(allowed, queries, strict=False):
        row[:] = one.allow.allowed
        row.reshape(-1)[one.left_out] = False
    return allowed
