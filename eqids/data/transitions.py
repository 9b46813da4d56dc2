"""Counts what comes soon after each item in the training events.

A first-order Markov chain (Rendle et al. 2010, section 4) whose counts are taken over
the next `MARKOV_ORDER` events of a history, with weight 1 / distance. Only training
events are counted, so that no count holds a target of validation or of test.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int8, Int32, Int64

from eqids.config import MARKOV_ORDER
from eqids.data.training import in_training
from eqids.io.cores import num_cores

Made = TypeVar("Made")

_CHUNK = 2**16
"""Events, or pairs of them, that are looked at together."""
_PAIRS = 2**26
"""Pairs of events that are held at a time, by all threads together; 8 bytes each."""
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
    events = slots, offsets, train_length
    return sp.vstack(for_transitions(lambda rows: rows, *events, num_slots), "csr")


def for_transitions(
    keep: Callable[[sp.csr_matrix], Made],
    slots: Int32[np.ndarray, " event"],
    offsets: Int64[np.ndarray, " user_plus_one"],
    train_length: Int32[np.ndarray, " user"],
    num_slots: int,
) -> list[Made]:
    """Returns what is made of some rows of `transitions` at a time, in threads.

    The whole matrix may be larger than memory.

    Args:
        keep: receives rows, float64 `[some, slot]`; each of them is in one call.
        slots: see `transitions`.
        offsets: see `transitions`.
        train_length: see `transitions`.
        num_slots: see `transitions`.
    """
    events = _TrainingEvents.of(slots, offsets, train_length, num_slots)
    most = min(_PAIRS, int(events.num_pairs.sum())) // num_cores() + 1

    def made(some: tuple[int, int]) -> list[Made]:
        return [keep(rows) for rows in events.rows(*some)]

    with ThreadPoolExecutor(num_cores()) as pool:
        parts = pool.map(made, pairwise(_cuts(events.num_pairs, most)))
        return [one for part in parts for one in part]


@dataclass(frozen=True, eq=False)
class _TrainingEvents:
    """Events, and how many of those that follow are counted after them.

    Attributes:
        slots: of all events.
        ahead: training events of the same history among the next `MARKOV_ORDER`; 0 for
            other than training events.
        num_pairs: events that are counted after those of each slot.
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
        step = max(_CHUNK, num_slots)
        for first in range(0, len(slots), step):
            some = slice(first, first + step)
            found = np.bincount(slots[some], ahead[some], num_slots)
            num_pairs += found.astype(np.int64)
        return _TrainingEvents(slots, ahead, num_pairs)

    def rows(self, first: int, last: int) -> Iterator[sp.csr_matrix]:
        """Yields the rows of `transitions` from `first` to before `last`."""
        num_slots, num_pairs = len(self.num_pairs), self.num_pairs[first:last]
        # A pair's row, column and weight in one number: sorting is fast for numbers.
        row_bits = _BITS + (num_slots - 1).bit_length()
        pairs = self._pairs(first, last, row_bits)
        pairs.sort()
        ends = np.concatenate([[0], np.cumsum(num_pairs)])
        # Few at a time, so that the caches of a core hold them.
        for start, stop in pairwise(_cuts(num_pairs, _CHUNK)):
            some = pairs[ends[start] : ends[stop]]
            change = np.ones(len(some), np.bool_)
            np.not_equal(some[1:] >> _BITS, some[:-1] >> _BITS, out=change[1:])
            heads = np.flatnonzero(change)
            column = (some[heads] & ((1 << row_bits) - 1)) >> _BITS
            weight = np.add.reduceat(some & ((1 << _BITS) - 1), heads) / _UNIT
            row_ends = np.searchsorted(heads, ends[start : stop + 1] - ends[start])
            shape = stop - start, num_slots
            yield sp.csr_matrix((weight, column, row_ends), shape=shape)

    def _pairs(
        self, first: int, last: int, row_bits: int
    ) -> Int64[np.ndarray, " pair"]:
        """Rows, columns and weights, in the order of events."""
        pairs = np.empty(self.num_pairs[first:last].sum(), np.int64)
        at = 0
        for start in range(0, len(self.slots), _CHUNK):
            here = self.slots[start : start + _CHUNK]
            ahead = self.ahead[start : start + _CHUNK]
            event = np.flatnonzero((here >= first) & (here < last) & (ahead > 0))
            row = (here[event] - first).astype(np.int64) << row_bits
            ahead = ahead[event]
            for distance in range(1, MARKOV_ORDER + 1):
                some = ahead >= distance
                column = self.slots[start + event[some] + distance].astype(np.int64)
                pair = row[some] | column << _BITS | _UNIT // distance
                pairs[at : at + len(pair)] = pair
                at += len(pair)
        return pairs


def _cuts(sizes: Int64[np.ndarray, " row"], most: int) -> list[int]:
    """Where to cut rows into parts of at most so many in sum, or of one row."""
    total, cuts = np.cumsum(sizes), [0]
    while cuts[-1] < len(sizes):
        before = total[cuts[-1]] - sizes[cuts[-1]]
        last = int(np.searchsorted(total, before + most, side="right"))
        cuts.append(max(last, cuts[-1] + 1))
    return cuts
