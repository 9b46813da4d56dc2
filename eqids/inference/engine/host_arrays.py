"""The arrays of a batch on the host, as the programs take them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.inference.engine.prepared_query import PreparedQuery


def history_arrays(
    queries: Sequence[PreparedQuery],
    rows: int,
    length: int,
    tokens: ItemTokens | None,
    request_time: bool,
) -> tuple[Mapping[str, Int32[np.ndarray, "batch seq"]], Int32[np.ndarray, " batch"]]:
    """Returns the fields of a `Batch`, and the last position of each row.

    Args:
        queries: at least one, none without items.
        rows: rows past the last query repeat the first.
        length: positions of a row.
        tokens: the tokens of the items' texts, or none.
        request_time: whether the model reads it.
    """
    histories = [one.history for one in queries]
    histories += histories[:1] * (rows - len(queries))
    batch = query_batch(
        [one.slots for one in histories],
        [one.times for one in histories],
        length,
        tokens,
        [one.request_time for one in histories] if request_time else None,
    )
    arrays = {name: array for name, array in vars(batch).items() if array is not None}
    return arrays, last_positions(batch)


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
