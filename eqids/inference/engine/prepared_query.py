"""Queries as the programs read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Int32

from eqids.config import require
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.tokens import ItemTokens, num_newest
from eqids.data.batches.training_batches import query_batch
from eqids.inference.engine.values import Query, SlotFilter
from eqids.inference.histories import History
from eqids.inference.open import Opened
from eqids.inference.request_times import asked_now

_SHARE = 64
"""Marking all slots is faster than sorting more than one in so many of them."""


@dataclass(frozen=True, eq=False)
class PreparedQuery:
    """A query as the programs read it.

    Attributes:
        row: the part of the history that the model reads, texts included; one row.
        k: number of items to find.
        allow: the only items to recommend.
        left_out: distinct slots not to recommend.
        prefixes: digests of beginnings of the row, see `prefix_digests`; none without
            a history cache.
    """

    row: HostBatch
    k: int
    allow: SlotFilter
    left_out: Int32[np.ndarray, " n"]
    prefixes: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Positions of the row; 0 for no items."""
        return self.row.items.shape[1]


def positions_per_event(tokens: ItemTokens | None) -> int:
    """Returns most positions that one more event takes, texts included."""
    return 1 + (0 if tokens is None else tokens.per_item)


def window_step(seq_len: int, tokens: ItemTokens | None) -> int:
    """Returns of what the first item that is read of a long history is a multiple.

    If the window of the items that are read moved with every event, no history that is
    too long to be read whole would begin with positions that were read before (see
    `HistoryCache`). So it moves by an eighth.

    Args:
        seq_len: of the run.
        tokens: of the items' texts, or none.
    """
    return max(1, seq_len // positions_per_event(tokens) // 8)


def prepare_query(
    query: Query, opened: Opened, all_items: SlotFilter, max_k: int
) -> PreparedQuery:
    """Returns a query as the programs read it, without digests of pages.

    Args:
        query: the query.
        opened: the model.
        all_items: allows all items.
        max_k: the largest k, unless the catalog has fewer places.

    Raises:
        UserError: k is below 1 or too large, or a slot or filter is not of the catalog.
    """
    history, num_slots = query.history, opened.dataset.num_slots
    k = min(query.k, num_slots)
    require(1 <= k <= max_k, f"k is {query.k}, wanted 1 to {max_k}")
    none = history.slots[:0]
    deny = none if query.deny is None else query.deny
    for slots in (history.slots, deny):
        known = (slots >= 0) & (slots < num_slots)
        require(bool(known.all()), "a slot is not of the catalog, wanted an item's")
    seen = history.slots if query.filter_seen else none
    left_out = _distinct(np.concatenate([seen, deny]), num_slots)
    allow = query.allow or all_items
    shape = all_items.allowed.shape
    require(
        allow.allowed.shape == shape,
        f"a filter is of {allow.allowed.shape} clusters and places, wanted {shape}",
    )
    return PreparedQuery(_row(history, opened), k, allow, left_out)


def _distinct(
    slots: Int[np.ndarray, " event"], num_slots: int
) -> Int32[np.ndarray, " n"]:
    """Returns the distinct slots, ascending."""
    if len(slots) * _SHARE < num_slots:
        return np.unique(slots).astype(np.int32)
    marked = np.zeros(num_slots, np.bool_)
    marked[slots] = True
    return np.flatnonzero(marked).astype(np.int32)


def _row(history: History, opened: Opened) -> HostBatch:
    """Returns the part of a history that the model reads, in one row."""
    if not len(history.slots):
        return HostBatch.empty(1, 0)
    asked = None
    if opened.model.config.request_time:
        (history,) = asked_now([history])
        asked = [history.request_time]
    slots, seq_len = history.slots.astype(np.int32), opened.config.recipe.seq_len
    first = len(slots) - num_newest(slots, seq_len, opened.tokens)
    step = window_step(seq_len, opened.tokens)
    first = min(-(-first // step) * step, len(slots) - 1)
    times = None if history.times is None else history.times[first:]
    slots = slots[first:]
    length = _length(slots, opened.tokens)
    return query_batch([slots], [times], length, opened.tokens, asked)


def _length(slots: Int[np.ndarray, " event"], tokens: ItemTokens | None) -> int:
    """Returns the positions that a history takes."""
    if tokens is None:
        return len(slots)
    return len(tokens.prompt) + len(slots) + int(tokens.length[slots].sum())
