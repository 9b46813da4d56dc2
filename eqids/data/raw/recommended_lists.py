"""Reads the lists that another system recommends."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from eqids.config import UserError, require
from eqids.data.dataset import Dataset
from eqids.data.raw.id_files import read_table


@dataclass(frozen=True, eq=False)
class GivenLists:
    """The lists of a file, best item first in each, every item once.

    Attributes:
        path: the file.
        user: the user's row in the dataset of each entry; the entries of a user are
            consecutive.
        slot: the item's slot of each entry; -1 for items that the catalog lacks.
        num_unknown_users: users of the file that the dataset lacks, left out.
    """

    path: Path
    user: Int[np.ndarray, " entry"]
    slot: Int[np.ndarray, " entry"]
    num_unknown_users: int

    def of(self, user: int) -> Int[np.ndarray, " list"]:
        """Returns the slots of a user's list, by the user's row."""
        first, last = np.searchsorted(self.user, (user, user + 1))
        return self.slot[first:last]

    @property
    def longest(self) -> int:
        """The length of the longest list: metrics of larger K are not known."""
        return int(np.bincount(self.user).max(initial=0))

    @property
    def num_unknown_items(self) -> int:
        """Entries with items that the catalog lacks; they keep their places."""
        return int(np.count_nonzero(self.slot < 0))


def read_lists(path: Path, dataset: Dataset) -> GivenLists:
    """Reads the lists of another system.

    Args:
        path: a Parquet or CSV file with the columns user and item and, if its rows are
            not in the order of the lists, rank: a row for each recommendation.
        dataset: of the users and items.

    Raises:
        UserError: the file cannot be read, lacks a column, has a missing value or a
            rank that is no number, or none of its users is in the dataset.
    """
    frame = read_table(path, ("user", "item"))
    for name in {"user", "item", "rank"} & set(frame.columns):
        missing = np.flatnonzero((frame[name].isna() | (frame[name] == "")).to_numpy())
        if len(missing):
            raise UserError(f"{path}, row {missing[0] + 1}: column {name!r} is empty")
    if "rank" in frame.columns:
        ranks = pd.to_numeric(frame["rank"], errors="coerce")
        wrong = np.flatnonzero(ranks.isna().to_numpy())
        if len(wrong):
            raise UserError(
                f"{path}, row {wrong[0] + 1}: rank is "
                f"{frame['rank'].iloc[wrong[0]]!r}, wanted a number, 1 for the best"
            )
        frame = frame.assign(rank=ranks).sort_values("rank", kind="stable")
    users = frame["user"].unique()
    rows = dict(zip(users, dataset.find_users(users).tolist(), strict=True))
    user = frame["user"].map(rows).to_numpy()
    require(
        bool((user >= 0).any()),
        f"{path}: none of its {len(users):,} users is in {dataset.path}; the first is "
        f"{users[:1].tolist()}",
    )
    items = frame["item"].unique()
    slots = dict(zip(items, dataset.find_items(items).tolist(), strict=True))
    lists = pd.DataFrame({"user": user, "item": frame["item"]})
    lists = lists.assign(slot=frame["item"].map(slots).to_numpy())
    lists = lists[lists["user"] >= 0].drop_duplicates(["user", "item"])
    lists = lists.sort_values("user", kind="stable")
    unknown = sum(row < 0 for row in rows.values())
    return GivenLists(path, lists["user"].to_numpy(), lists["slot"].to_numpy(), unknown)
