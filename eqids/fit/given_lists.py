"""Recommendations of another system: what rank each target has in a given list."""

from collections.abc import Iterator, Mapping
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from eqids.data import Dataset
from eqids.data.raw.recommended_lists import GivenLists
from eqids.fit.evaluation import Split, targets_of
from eqids.fit.ranking import CUTOFFS, metrics


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
