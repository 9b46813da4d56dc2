"""Users x items of the training events, and histories as weights of items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from eqids.data import Dataset

BLOCK = 256
"""Items whose co-occurrences are in memory at a time."""


@dataclass(frozen=True)
class TrainingMatrix:
    """Which users have which items among their training events.

    Attributes:
        users: float32 [user, item], 1 where the user has the item, otherwise 0.
        slots: the slot of each item; items without a training event are left out.
    """

    users: sp.csr_matrix
    slots: Int[np.ndarray, " item"]

    @staticmethod
    def of(dataset: Dataset) -> "TrainingMatrix":
        """Returns the matrix of a dataset."""
        lengths = enumerate(dataset.train_length)
        events = np.concatenate([dataset.history(user)[:n] for user, n in lengths])
        slots = np.unique(events)
        item = np.searchsorted(slots, events)
        ends = np.concatenate([[0], np.cumsum(dataset.train_length, dtype=np.int64)])
        shape = (dataset.num_users, len(slots))
        users = sp.csr_matrix((np.ones(len(item), np.float32), item, ends), shape)
        users.sum_duplicates()
        users.data[:] = 1.0
        return TrainingMatrix(users, slots)

    @property
    def num_items(self) -> int:
        """Number of items with a training event."""
        return len(self.slots)

    def num_users(self) -> Float[np.ndarray, " item"]:
        """Returns how many users have each item."""
        return np.asarray(self.users.sum(axis=0), np.float32).reshape(-1)

    def co_occurrences(self) -> Iterator[tuple[slice, Float[np.ndarray, "row item"]]]:
        """Yields how many users have both items, for a block of items at a time.

        Yields:
            The block's items, and the counts of each of them with every item. A count
            above 2^24 is rounded, as float32 is.
        """
        items = self.users.T.tocsr()
        for first in range(0, self.num_items, BLOCK):
            block = slice(first, min(first + BLOCK, self.num_items))
            yield block, (items[block] @ self.users).toarray()


def recency_weights(
    histories: Sequence[Int[np.ndarray, " _"]], num_slots: int, power: float
) -> sp.csr_matrix:
    """Weights the items of histories by 1 / distance^power.

    The newest event has distance 1, the one before it 2. An item that occurs several
    times counts once, where it occurred last.

    Args:
        histories: the slots of each user, oldest first.
        num_slots: slots of the catalog.
        power: 0 gives every item the same weight.

    Returns:
        float32 [user, slot].
    """
    # Of equal slots, `unique` returns the first: reversed, the newest.
    newest = [np.unique(history[::-1], return_index=True) for history in histories]
    ends = np.cumsum([0, *(len(slots) for slots, _ in newest)])
    slots = np.concatenate([slots for slots, _ in newest])
    distance = 1.0 + np.concatenate([at for _, at in newest])
    weights = (distance**-power).astype(np.float32)
    return sp.csr_matrix((weights, slots, ends), (len(histories), num_slots))
