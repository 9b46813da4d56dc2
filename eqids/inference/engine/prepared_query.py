"""Queries as the programs read them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from eqids.config import require
from eqids.data.batches.tokens import ItemTokens, num_newest
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
        history: the part of the history that the model reads; its request time only if
            the model reads that.
        length: positions that it takes, texts included; 0 for no items.
        k: number of items to find.
        allow: the only items to recommend.
        left_out: distinct slots not to recommend.
    """

    history: History
    length: int
    k: int
    allow: SlotFilter
    left_out: Int32[np.ndarray, " n"]


def prepare_query(
    query: Query, opened: Opened, all_items: SlotFilter, max_k: int
) -> PreparedQuery:
    """Returns a query as the programs read it.

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
    read = _read(history, opened)
    length = _length(read.slots, opened.tokens)
    return PreparedQuery(read, length, k, allow, left_out)


def _distinct(
    slots: Int[np.ndarray, " event"], num_slots: int
) -> Int32[np.ndarray, " n"]:
    """Returns the distinct slots, ascending."""
    if len(slots) * _SHARE < num_slots:
        return np.unique(slots).astype(np.int32)
    marked = np.zeros(num_slots, np.bool_)
    marked[slots] = True
    return np.flatnonzero(marked).astype(np.int32)


def _read(history: History, opened: Opened) -> History:
    """Returns the part of a history that the model reads."""
    if not len(history.slots):
        return History(history.user, history.slots.astype(np.int32))
    asked = None
    if opened.model.config.request_time:
        (history,) = asked_now([history])
        asked = history.request_time
    slots, seq_len = history.slots, opened.config.recipe.seq_len
    first = len(slots) - num_newest(slots, seq_len, opened.tokens)
    times = None if history.times is None else history.times[first:]
    return History(history.user, slots[first:].astype(np.int32), times, asked)


def _length(slots: Int[np.ndarray, " event"], tokens: ItemTokens | None) -> int:
    """Returns the positions that a history takes; 0 without items."""
    if tokens is None or not len(slots):
        return len(slots)
    return len(tokens.prompt) + len(slots) + int(tokens.length[slots].sum())
