"""The most popular items, which answer empty histories."""

import numpy as np
from jaxtyping import Bool, Float32, Int32

from eqids.data import Dataset
from eqids.inference.engine.values import Recommendations

_FIRST = 4096
"""Popular slots that are looked at first; then twice as many, and so on."""


class Popularity:
    """The items by their numbers of training events.

    Attributes:
        order: all slots that may be recommended, most popular first.
        shares: of the training events, by slot.
    """

    order: Int32[np.ndarray, " n"]
    shares: Float32[np.ndarray, " slot"]

    def __init__(self, dataset: Dataset):
        """Sorts the items of a dataset."""
        counts = np.where(dataset.item_valid, dataset.item_counts, 0).reshape(-1)
        self.shares = (counts / max(1, int(counts.sum()))).astype(np.float32)
        slots = np.flatnonzero(dataset.item_valid).astype(np.int32)
        self.order = slots[np.argsort(-counts[slots], kind="stable")]

    def top(
        self,
        k: int,
        allowed: Bool[np.ndarray, "cluster place"],
        left_out: Int32[np.ndarray, " n"],
    ) -> Recommendations:
        """Returns the k most popular items with their shares of the training events.

        Args:
            k: number of items.
            allowed: places that may be recommended.
            left_out: slots that may not.
        """
        first, found = _FIRST, self.order[:0]
        while True:
            found = self.order[:first]
            found = found[allowed.reshape(-1)[found] & ~np.isin(found, left_out)][:k]
            if len(found) == k or first >= len(self.order):
                return Recommendations(found, self.shares[found], popularity=True)
            first *= 2
