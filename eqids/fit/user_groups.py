"""Metrics of cold, warm and new users apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from eqids.data import Dataset
from eqids.fit.baseline_ranks import baseline_metrics
from eqids.fit.evaluation import Split, targets_of
from eqids.fit.ranking import metrics

COLD_HISTORY = 5
"""Users with fewer events before their target are cold, if nothing else is said."""


def metrics_by_history(
    dataset: Dataset,
    split: Split,
    ranked: Float[np.ndarray, "user columns"],
    baselines: Mapping[str, Float[np.ndarray, "user 2"]],
    cold: int,
) -> dict[str, Any]:
    """Returns the metrics of cold users and of warm ones; None for nobody.

    Args:
        dataset: the dataset with the histories and the targets.
        split: the split that has the targets.
        ranked: ranks, filtered and unfiltered; users as `targets_of` has them.
        baselines: the same of baselines, by name.
        cold: users with fewer events before the target are cold.
    """
    _, positions = targets_of(dataset, split)
    groups = {"cold": positions < cold, "warm": positions >= cold}
    return {
        "cold_history": cold,
        **{
            name: _of_group(members, ranked, baselines)
            for name, members in groups.items()
        },
    }


def new_user_metrics(
    dataset: Dataset, users: Bool[np.ndarray, " user"]
) -> dict[str, Any] | None:
    """Returns the metrics of users without history, whom popularity answers.

    That is what `recommend` and `serve` do; the target is the first event.

    Args:
        dataset: with the first events of these users.
        users: the users; None is returned if there are none.
    """
    if not users.any():
        return None
    target = dataset.slots[dataset.offsets[:-1][users]]
    counts = np.where(dataset.item_valid, dataset.item_counts, -1).reshape(-1)
    ordered, own = np.sort(counts[counts >= 0]), counts[target]
    below, up_to = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
    ranks = 1.0 + (len(ordered) - up_to) + 0.5 * (up_to - below - 1)
    both = np.stack([ranks, ranks], axis=1)
    return {"num_users": len(target), **baseline_metrics(both)}


def _of_group(
    members: Bool[np.ndarray, " user"],
    ranked: Float[np.ndarray, "user columns"],
    baselines: Mapping[str, Float[np.ndarray, "user 2"]],
) -> dict[str, Any] | None:
    if not members.any():
        return None
    own = ranked[members]
    return {
        "num_users": int(members.sum()),
        "filtered": metrics(own[:, 0]),
        "unfiltered": metrics(own[:, 1]),
        **({"nll": float(-own[:, 2].mean())} if own.shape[1] > 2 else {}),
        **{name: baseline_metrics(one[members]) for name, one in baselines.items()},
    }
