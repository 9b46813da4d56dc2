"""The active clusters of a dataset's batches, and the optimizer that suits them."""

import numpy as np
from jaxtyping import Float

from eqids.config import ItemOptimizer, Recipe
from eqids.data import Dataset
from eqids.fit.active_clusters import ClusterLists, chances, expected_capacity

SPARSE_BELOW = 0.5
"""Share of active clusters below which `auto` means the row-sparse optimizer."""


def cluster_lists(dataset: Dataset, recipe: Recipe, num_shards: int) -> ClusterLists:
    """Returns lists that are long enough for most batches of a recipe.

    Args:
        dataset: its training counts give how often each cluster is used.
        recipe: gives the size of a batch.
        num_shards: shards of the tables. The last may have empty clusters that pad it
            to the length of the others.
    """
    chance = _chances(dataset, recipe)
    chance = np.pad(chance, (0, -len(chance) % num_shards))
    capacity = expected_capacity(chance, num_shards)
    return ClusterLists(len(chance), dataset.info.cluster_size, num_shards, capacity)


def choose_item_optimizer(
    flag: ItemOptimizer, dataset: Dataset, recipe: Recipe
) -> ItemOptimizer:
    """Returns the optimizer of item tables: the flag, or what `auto` means here."""
    if flag != "auto":
        return flag
    share = _chances(dataset, recipe).mean()
    return "lazy_adam" if share < SPARSE_BELOW else "dense"


def _chances(dataset: Dataset, recipe: Recipe) -> Float[np.ndarray, " cluster"]:
    """The chance of each cluster to be active in a batch."""
    counts = dataset.item_counts.sum(axis=1).astype(np.float64)
    return chances(counts, recipe.batch_size * (recipe.seq_len + 1))
