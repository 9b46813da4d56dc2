"""The heaviest successors of every item: what came soon after it in training."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int32, Int64

from eqids.data.transitions import for_transitions

MOST_SUCCESSORS = 128
"""Most successors of an item in a table, the heaviest. On validation of ML-100K, ML-1M
and Amazon Beauty, no larger number has a better NDCG@10 (docs/counts.md)."""


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
        events = slots, offsets, train_length
        parts = for_transitions(lambda rows: _heaviest(rows, most), *events, num_slots)
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
