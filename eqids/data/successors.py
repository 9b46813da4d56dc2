"""What came soon after each item in the training events: the counts of a Markov chain.

A first-order chain (Rendle et al. 2010, section 4) whose counts are taken over the next
`MARKOV_ORDER` events of a history, with weight 1 / distance. Only training events are
counted, so that no count holds a target of validation or of test.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from eqids.config import MARKOV_ORDER
from eqids.data.training import in_training
from eqids.io.cores import num_cores

_Kept = TypeVar("_Kept")

MOST_SUCCESSORS = 128
"""Most successors of an item in a table, the heaviest. On validation of ML-100K, ML-1M
and Amazon Beauty, no larger number has a better NDCG@10 (docs/counts.md)."""

_EVENTS = 2**18
"""Events, or pairs of them, that are looked at together."""
_PAIRS = 2**26
"""Pairs of events that are counted at a time, by all threads together; their memory is
some 30 bytes a pair."""
_UNIT = math.lcm(*range(1, MARKOV_ORDER + 1))
"""Weights are whole numbers in this unit, so that their sums are exact in any order."""
_BITS = _UNIT.bit_length()
"""Bits of a weight."""


def transitions(
    slots: Int32[np.ndarray, " event"],
    offsets: Int64[np.ndarray, " user_plus_one"],
    train_length: Int32[np.ndarray, " user"],
    num_slots: int,
) -> sp.csr_matrix:
    """Returns transition weights between slots in the training events.

    Args:
        slots: the items of all histories, users one after the other.
        offsets: where each history starts and ends.
        train_length: how many of the first events of each history are for training.
        num_slots: places of the catalog.

    Returns:
        float64 `[slot, slot]`, sparse, columns ascending; rows are not normalised.
    """
    events = _TrainingEvents.of(slots, offsets, train_length, num_slots)
    return sp.vstack(events.counted(lambda rows: rows), "csr")


@dataclass(frozen=True, eq=False)
class _TrainingEvents:
    """Events, and how many of those that follow are counted as successors.

    Attributes:
        slots: of all events.
        ahead: training events of the same history among the next `MARKOV_ORDER`; 0 for
            other than training events.
        num_pairs: successors of each slot's events.
    """

    slots: Int32[np.ndarray, " event"]
    ahead: Int8[np.ndarray, " event"]
    num_pairs: Int64[np.ndarray, " slot"]

    @staticmethod
    def of(
        slots: Int32[np.ndarray, " event"],
        offsets: Int64[np.ndarray, " user_plus_one"],
        train_length: Int32[np.ndarray, " user"],
        num_slots: int,
    ) -> "_TrainingEvents":
        """Finds the training events; see `transitions`."""
        start, stop = offsets[:-1], offsets[:-1] + train_length
        ahead = MARKOV_ORDER * in_training(offsets, train_length).view(np.int8)
        for left in range(MARKOV_ORDER):
            event = stop - 1 - left
            ahead[event[event >= start]] = left
        num_pairs = np.zeros(num_slots, np.int64)
        for first in range(0, len(slots), _EVENTS):
            some = slice(first, first + _EVENTS)
            found = np.bincount(slots[some], ahead[some], num_slots)
            num_pairs += found.astype(np.int64)
        return _TrainingEvents(slots, ahead, num_pairs)

    def counted(self, keep: Callable[[sp.csr_matrix], _Kept]) -> list[_Kept]:
        """Counts the successors of some slots at a time, in threads.

        Args:
            keep: makes of the rows of some slots, float64 `[some, slot]`, what is
                returned of them.
        """
        total = np.cumsum(self.num_pairs)
        most, bounds = min(_PAIRS, int(total[-1])) // num_cores() + 1, [0]
        while bounds[-1] < len(total):
            before = total[bounds[-1]] - self.num_pairs[bounds[-1]]
            last = int(np.searchsorted(total, before + most, side="right"))
            bounds.append(max(last, bounds[-1] + 1))
        with ThreadPoolExecutor(num_cores()) as pool:
            found = pool.map(lambda ends: keep(self._rows(*ends)), pairwise(bounds))
            return list(found)

    def _rows(self, first: int, last: int) -> sp.csr_matrix:
        """Weights of the successors of the slots from `first` to before `last`."""
        num_slots = len(self.num_pairs)
        # A pair's row, column and weight in one number: sorting is fast for numbers.
        row_bits = _BITS + (num_slots - 1).bit_length()
        pairs = np.empty(self.num_pairs[first:last].sum(), np.int64)
        at = 0
        for start in range(0, len(self.slots), _EVENTS):
            here = self.slots[start : start + _EVENTS]
            ahead = self.ahead[start : start + _EVENTS]
            event = np.flatnonzero((here >= first) & (here < last) & (ahead > 0))
            row, ahead = (
                (here[event] - first).astype(np.int64) << row_bits,
                ahead[event],
            )
            for distance in range(1, MARKOV_ORDER + 1):
                some = ahead >= distance
                column = self.slots[start + event[some] + distance].astype(np.int64)
                pair = row[some] | column << _BITS | _UNIT // distance
                pairs[at : at + len(pair)] = pair
                at += len(pair)
        assert at == len(pairs)
        pairs.sort()
        heads = _first_of_each(pairs)
        column = (pairs[heads] & ((1 << row_bits) - 1)) >> _BITS
        rows = np.arange(last - first + 1) << row_bits
        ends = np.searchsorted(heads, np.searchsorted(pairs, rows))
        pairs &= (1 << _BITS) - 1
        weight = np.add.reduceat(pairs, heads) / _UNIT
        shape = last - first, num_slots
        return sp.csr_matrix((weight, column, ends), shape=shape)


def _first_of_each(pairs: Int64[np.ndarray, " pair"]) -> Int64[np.ndarray, " head"]:
    """Where, in sorted numbers, those of other rows and columns begin."""
    heads = [np.arange(min(1, len(pairs)))]
    for start in range(0, len(pairs), _EVENTS):
        some = pairs[start : start + _EVENTS + 1]
        differs = (some[1:] ^ some[:-1]) >> _BITS
        heads.append(start + 1 + np.flatnonzero(differs))
    return np.concatenate(heads)


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
    def of(
        slots: Int32[np.ndarray, " event"],
        offsets: Int64[np.ndarray, " user_plus_one"],
        train_length: Int32[np.ndarray, " user"],
        num_slots: int,
        most: int = MOST_SUCCESSORS,
    ) -> "Successors":
        """Counts the training events, and returns the heaviest successors of each slot;
        equal ones by slot.

        Args:
            slots: the items of all histories, users one after the other.
            offsets: where each history starts and ends.
            train_length: how many of the first events of each history are for training.
            num_slots: places of the catalog.
            most: most successors of an item.
        """
        events = _TrainingEvents.of(slots, offsets, train_length, num_slots)
        parts = events.counted(lambda rows: _heaviest(rows, most))
        lengths, kept, weights = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Successors(ends, kept, weights)

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


def _heaviest(
    counts: sp.csr_matrix, most: int
) -> tuple[
    Int64[np.ndarray, " row"], Int32[np.ndarray, " pair"], Float32[np.ndarray, " pair"]
]:
    """The number of successors of each row, and the slots and weights of all rows."""
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    weight = counts.data.astype(np.float32)
    # Bits of floats that are not negative are in the order of their values.
    rank = np.iinfo(np.int32).max - weight.view(np.int32)
    order = np.argsort((row << 31) | rank, kind="stable")
    place = np.arange(len(row)) - counts.indptr[row]
    order = order[place < most]
    lengths = np.minimum(np.diff(counts.indptr), most).astype(np.int64)
    return lengths, counts.indices[order].astype(np.int32), weight[order]
