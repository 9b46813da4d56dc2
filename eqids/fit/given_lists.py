"""Recommendations of another system: what rank each target has in a given list."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int

from eqids.config import UserError, require
from eqids.data import Dataset
from eqids.data.raw.raw_files import is_parquet
from eqids.fit.evaluation import Split, targets_of
from eqids.fit.ranking import CUTOFFS, metrics


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
    frame = _read(path)
    for name in ("user", "item"):
        require(
            name in frame.columns,
            f"{path} has no column {name!r}, wanted user, item and, if rows are in no "
            "order, rank",
        )
    for name in {"user", "item", "rank"} & set(frame.columns):
        missing = np.flatnonzero(frame[name].isna().to_numpy())
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


def _read(path: Path) -> pd.DataFrame:
    try:
        if is_parquet(path):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


class ListsEvaluation(TypedDict):
    """Metrics of lists on a split, by the names that results are written with."""

    split: Split
    num_users: int
    filtered: Mapping[str, float]
    unfiltered: Mapping[str, float]
    seen_target_share: float
    longest_list: int
    """Metrics of larger K are not known."""
    users_without_list: int
    unknown_users: int
    unknown_items: int
    seen_items: int
    """Entries with items of the user's history, which the filtered metrics leave
    out."""


def evaluate_lists(
    lists: GivenLists,
    dataset: Dataset,
    split: Split,
    ranks: Float[np.ndarray, "user 2"],
) -> ListsEvaluation:
    """Returns the metrics of lists.

    Args:
        lists: from `read_lists`.
        dataset: the dataset with the histories and the targets.
        split: the split that has the targets.
        ranks: from `ranks_in_lists`.
    """
    users, _ = targets_of(dataset, split)
    target_seen = [goal in seen for _, seen, goal in _targets(dataset, split)]
    cutoffs = [k for k in CUTOFFS if k <= lists.longest] or [1]
    return {
        "split": split,
        "num_users": len(users),
        "filtered": metrics(ranks[:, 0], cutoffs),
        "unfiltered": metrics(ranks[:, 1], cutoffs),
        "seen_target_share": float(np.mean(target_seen)),
        "longest_list": lists.longest,
        "users_without_list": int(np.count_nonzero(~np.isin(users, lists.user))),
        "unknown_users": lists.num_unknown_users,
        "unknown_items": lists.num_unknown_items,
        "seen_items": sum(
            int(np.isin(lists.of(user), seen).sum())
            for user, seen, _ in _targets(dataset, split)
        ),
    }


def lists_notes(found: ListsEvaluation) -> list[str]:
    """Returns sentences about what is unusual in lists."""
    counts = {
        "users of the file are not in the dataset, and left out": found[
            "unknown_users"
        ],
        "evaluated users have no list, and count as missed": found[
            "users_without_list"
        ],
        "entries are no items of the catalog; they keep their places": found[
            "unknown_items"
        ],
        "entries are items of the user's history; seen filtered leaves them out, so "
        "these lists are shorter": found["seen_items"],
    }
    longest = found["longest_list"]
    notes = [f"{number:,} {what}" for what, number in counts.items() if number]
    if longest < CUTOFFS[-1]:
        notes.append(f"the longest list has {longest} items: larger K are not known")
    return notes


def ranks_in_lists(
    lists: GivenLists, dataset: Dataset, split: Split
) -> Float[np.ndarray, "user 2"]:
    """Returns the ranks of a split's targets in lists.

    The first column is of lists without the items of the user's history, where a target
    that was seen is missed; the second is of lists as they are. A target that is in no
    list has rank inf.

    Args:
        lists: from `read_lists`.
        dataset: the dataset with the histories and the targets.
        split: `valid` or `test`; at test the history includes the validation item.
    """
    users, _ = targets_of(dataset, split)
    ranks = np.full((len(users), 2), np.inf)
    for row, (user, seen, target) in enumerate(_targets(dataset, split)):
        found = lists.of(user)
        left = found[~np.isin(found, seen)]
        for column, one in enumerate((left, found)):
            at = np.flatnonzero(one == target)
            if len(at):
                ranks[row, column] = at[0] + 1
    return ranks


def _targets(
    dataset: Dataset, split: Split
) -> Iterator[tuple[int, Int[np.ndarray, " event"], int]]:
    """Yields the users of a split, what each has seen, and the target's slot."""
    users, positions = targets_of(dataset, split)
    for user, at in zip(users.tolist(), positions.tolist(), strict=True):
        history = dataset.history(user)
        yield user, history[:at], int(history[at])
