"""The dataset in memory: histories, targets and the catalog of one folder."""

import functools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eqids.config import UserError, require
from eqids.data.catalog.lineage import Lineage
from eqids.data.files import ITEMS_FILE, USERS_FILE, read_parquet
from eqids.data.ids import Ids, shown
from eqids.data.info import DatasetInfo
from eqids.data.successors import Successors


@dataclass(frozen=True, eq=False)
class Dataset:
    """Histories, targets and the catalog of one dataset folder.

    The history of user u is `slots[offsets[u]:offsets[u + 1]]`, sorted by time.
    When a model predicts the event at p, it may see the events [0, p).
    """

    path: Path
    """The folder."""
    info: DatasetInfo
    """The content of `dataset.json`."""
    slots: np.ndarray
    """int32 [event]: the items of all histories, users one after the other."""
    times: np.ndarray | None
    """int64 [event]: unix seconds, or none if the source has no times."""
    offsets: np.ndarray
    """int64 [user + 1]: where each history starts and ends."""
    train_length: np.ndarray
    """int32 [user]: how many of the first events are for training."""
    valid_at: np.ndarray
    """int32 [user]: position of the validation target in the history; -1: none, or
    a retired item."""
    test_at: np.ndarray
    """int32 [user]: position of the test target in the history; -1: none, or a
    retired item."""
    targets_retired: tuple[int, int]
    """Number of users left out of validation and of test because their target is
    retired."""
    item_valid: np.ndarray
    """bool [cluster, place]: places that hold an item, which is not retired."""
    retired: np.ndarray
    """bool [cluster, place]: places of retired items, which histories may hold."""
    item_counts: np.ndarray
    """int64 [cluster, place]: training events of each item."""
    item_vectors: np.ndarray
    """float32 [cluster, place, vector_width]: zeros in empty places."""
    lineage: Lineage
    """The versions of the catalog."""
    stored_successors: Successors | None
    """The folder's table of successors; see `successors`."""

    def __repr__(self) -> str:
        """Returns one line, for notebooks."""
        info = self.info
        return (
            f"Dataset({self.path}: {info.num_users:,} users, {info.num_items:,} items, "
            f"{info.num_events:,} events)"
        )

    @property
    def num_users(self) -> int:
        """Number of users."""
        return self.info.num_users

    @property
    def num_slots(self) -> int:
        """Number of places, empty ones included."""
        return self.info.num_clusters * self.info.cluster_size

    @functools.cached_property
    def successors(self) -> Successors:
        """What came soon after each item in training events.

        They are counted here if the folder has no table of them.
        """
        if self.stored_successors is not None:
            return self.stored_successors
        return Successors.of(
            self.slots, self.offsets, self.train_length, self.num_slots
        )

    def history(self, user: int) -> np.ndarray:
        """Returns the slots of one user, int32 [event], oldest first (a view)."""
        return self.slots[self.offsets[user] : self.offsets[user + 1]]

    def items(self) -> pd.DataFrame:
        """Returns the items by slot: slot, item, title, text, count, retired."""
        return read_parquet(self.path / ITEMS_FILE).to_pandas()

    def users(self) -> pd.DataFrame:
        """Returns the users: user, offset, length, train_length, valid_at, test_at."""
        return read_parquet(self.path / USERS_FILE).to_pandas()

    @functools.cached_property
    def _items_by_id(self) -> tuple[Ids, np.ndarray]:
        table = read_parquet(self.path / ITEMS_FILE, columns=["item", "slot"])
        # Row -1, of items that the catalog does not hold, gets slot -1.
        slots = np.append(table["slot"].to_numpy(), -1)
        return Ids(table["item"]), slots.astype(np.int32)

    @functools.cached_property
    def _users_by_id(self) -> Ids:
        return Ids(read_parquet(self.path / USERS_FILE, columns=["user"])["user"])

    def find_items(self, items: Iterable[Any]) -> np.ndarray:
        """Returns the slots of item ids of any spelling; see `eqids.data.ids`.

        Args:
            items: ids of any type.

        Returns:
            int32 [item], -1 if the catalog does not hold it.
        """
        ids, slots = self._items_by_id
        return slots[ids.find(items)]

    def slot_of(self, items: Iterable[Any]) -> np.ndarray:
        """Returns the slots of item ids that the catalog holds; see `find_items`.

        Returns:
            int32 [item].

        Raises:
            UserError: the catalog does not hold an id.
        """
        items = items if isinstance(items, np.ndarray) else list(items)
        slots = self.find_items(items)
        unknown = np.flatnonzero(slots < 0)
        if len(unknown):
            more = f", nor are {len(unknown) - 1:,} others" if len(unknown) > 1 else ""
            raise UserError(
                f"item {shown(items[unknown[0]])} is not in the catalog of "
                f"{self.path}{more}"
            )
        return slots

    def find_users(self, users: Iterable[Any]) -> np.ndarray:
        """Returns the rows of user ids of any spelling; see `eqids.data.ids`.

        Args:
            users: ids of any type.

        Returns:
            int64 [user], -1 for users that the dataset does not hold.
        """
        return self._users_by_id.find(users)

    def find_user(self, user: Hashable) -> tuple[int, Any]:
        """Returns the row of a user id of any spelling, and the id as it is spelled in
        the dataset; -1 for other users, see `Ids.find_one`."""
        return self._users_by_id.find_one(user)

    def user_index(self, user: Hashable) -> int:
        """Returns the row of a user id of any spelling; see `eqids.data.ids`.

        Raises:
            UserError: the dataset holds no such user.
        """
        (row,) = self._users_by_id.find([user]).tolist()
        require(row >= 0, f"user {shown(user)} is not among the users of {self.path}")
        return row
