"""What came soon after each item in the training events: the counts of a Markov chain.

A first-order chain (Rendle et al. 2010, section 4) whose counts are taken over the next
`MARKOV_ORDER` events of a history, with weight 1 / distance. Only training events are
counted, so that no count holds a target of validation or of test.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int32, Int64

from eqids.config import MARKOV_ORDER

MOST_SUCCESSORS = 128
"""Most successors of an item in a table, the heaviest. On validation of ML-100K, ML-1M
and Amazon Beauty, no larger number has a better NDCG@10 (docs/counts.md)."""

_EVENTS = 2**16
"""Events whose transitions are counted at a time."""
_UNIT = math.lcm(*range(1, MARKOV_ORDER + 1))
"""Weights are whole numbers in this unit, so that their sums are exact in any order."""


def transitions(
    slots: Int32[np.ndarray, " event"],
    offsets: Int64[np.ndarray, " user_plus_one"],
    train_length: Int32[np.ndarray, " user"],
    num_slots: int,
) -> sp.csr_matrix:
    """Returns transition weights between slots in the training events.

    Args:
        slots: the items of all histories, users one after the other; at least one.
        offsets: where each history starts and ends.
        train_length: how many of the first events of each history are for training.
        num_slots: places of the catalog.

    Returns:
        float64 `[slot, slot]`, sparse, columns ascending; rows are not normalised.
    """
    parts: list[sp.csr_matrix] = []
    shape = num_slots, num_slots
    for first in range(0, len(slots), _EVENTS):
        last = min(first + _EVENTS + MARKOV_ORDER, len(slots))
        event = np.arange(first, last)
        user = np.searchsorted(offsets, event, side="right") - 1
        training = event - offsets[user] < train_length[user]
        event, user = event[training], user[training]
        part = _after(slots, event, user, first + _EVENTS, shape)
        # Parts of similar size are added, so that a large sum is not computed again for
        # each part.
        while parts and parts[-1].nnz <= part.nnz:
            part = part + parts.pop()
        parts.append(part)
    return sum(parts[1:], start=parts[0]) / _UNIT


def _after(
    slots: Int32[np.ndarray, " event"],
    event: Int64[np.ndarray, " some"],
    user: Int64[np.ndarray, " some"],
    stop: int,
    shape: tuple[int, int],
) -> sp.csr_matrix:
    """Transition weights, times `_UNIT`, after those of some training events that
    precede `stop`."""
    weights, before, after = [], [], []
    for distance in range(1, MARKOV_ORDER + 1):
        same = (user[distance:] == user[:-distance]) & (event[:-distance] < stop)
        before.append(slots[event[:-distance][same]])
        after.append(slots[event[distance:][same]])
        weights.append(np.full(len(before[-1]), _UNIT // distance))
    pairs = np.concatenate(before), np.concatenate(after)
    return sp.csr_matrix((np.concatenate(weights), pairs), shape=shape)


@dataclass(frozen=True, eq=False)
class SuccessorTable:
    """The successors of every item as arrays of one width, as devices hold them.

    Attributes:
        slot: the successors of each place, the heaviest first; 0 is padding.
        weight: the share of each in its row, which sums to 1; 0 is padding.
    """

    slot: Int32[np.ndarray, "cluster place successor"]
    weight: Float32[np.ndarray, "cluster place successor"]


@dataclass(frozen=True, eq=False)
class Successors:
    """The heaviest successors of every item, as rows of different lengths.

    The successors of slot s are `slots[offsets[s]:offsets[s + 1]]`, the heaviest first.

    Attributes:
        offsets: where each row starts and ends.
        slots: the successors.
        weights: their counts, sums of 1 / distance.
    """

    offsets: Int64[np.ndarray, " slot_plus_one"]
    slots: Int32[np.ndarray, " pair"]
    weights: Float32[np.ndarray, " pair"]

    @staticmethod
    def of(counts: sp.csr_matrix, most: int = MOST_SUCCESSORS) -> "Successors":
        """Returns the heaviest successors of every item; equal ones by slot.

        Args:
            counts: from `transitions`.
            most: most successors of an item.
        """
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        weight = counts.data.astype(np.float32)
        # Bits of floats that are not negative are in the order of their values.
        rank = np.iinfo(np.int32).max - weight.view(np.int32)
        order = np.argsort((row << 31) | rank, kind="stable")
        place = np.arange(len(row)) - counts.indptr[row]
        order = order[place < most]
        lengths = np.minimum(np.diff(counts.indptr), most)
        return Successors(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            counts.indices[order].astype(np.int32),
            weight[order],
        )

    @property
    def width(self) -> int:
        """The length of the longest row, at least 1."""
        return max(1, int(np.diff(self.offsets).max(initial=0)))

    def table(self, valid: Bool[np.ndarray, "cluster place"]) -> SuccessorTable:
        """Returns the table for a catalog, with rows of `width`.

        Args:
            valid: places that hold an item that is not retired. Others are no
                successors, and the shares of the rest sum to 1 without them.
        """
        row = np.repeat(np.arange(valid.size), np.diff(self.offsets))
        kept = valid.reshape(-1)[self.slots]
        row, slots, weights = row[kept], self.slots[kept], self.weights[kept]
        lengths = np.bincount(row, minlength=valid.size)
        place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
        total = np.bincount(row, weights, minlength=valid.size)
        slot = np.zeros((valid.size, self.width), np.int32)
        weight = np.zeros(slot.shape, np.float32)
        slot[row, place], weight[row, place] = slots, weights / total[row]
        return SuccessorTable(
            slot.reshape(*valid.shape, -1),
            weight.reshape(*valid.shape, -1),
        )
