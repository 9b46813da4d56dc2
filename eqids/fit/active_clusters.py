"""Which clusters a batch touches, known before the step, in arrays of one length."""

from dataclasses import dataclass

import numpy as np

from eqids.config import ItemOptimizer, Recipe
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch

SPARSE_BELOW = 0.5
"""Share of touched clusters below which the row-sparse optimizer is chosen."""
_MARGIN = 4.0
"""Standard deviations of room above the number of clusters that is expected."""
_MULTIPLE = 16


@dataclass(frozen=True)
class ActiveLists:
    """Lists the clusters of a batch, shard by shard.

    Attributes:
        num_clusters: clusters of the tables, as they lie on the mesh.
        cluster_size: places in one.
        shards: shards of the tables, each a range of clusters.
        capacity: clusters that a shard's list has room for. A batch that touches
            more gets a list twice as long (or more), for which the step compiles once
            again; no cluster is ever left out.
    """

    num_clusters: int
    cluster_size: int
    shards: int
    capacity: int

    def __call__(self, batch: HostBatch) -> np.ndarray:
        """Returns the clusters of a batch's inputs and targets; see `of_slots`."""
        slots = np.concatenate([batch.items.ravel(), batch.target.ravel()])
        return self.of_slots(slots)

    def of_slots(self, slots: np.ndarray) -> np.ndarray:
        """Returns int32 [shards * capacity], the clusters of slots, except of -1.

        Each shard's are ascending, followed by `num_clusters` up to its capacity.
        """
        cluster = np.unique(slots[slots >= 0] // self.cluster_size)
        shard = cluster // (self.num_clusters // self.shards)
        count = np.bincount(shard, minlength=self.shards)
        capacity = self.capacity
        while capacity < count.max():
            capacity *= 2
        out = np.full((self.shards, capacity), self.num_clusters, np.int32)
        first = np.cumsum(count) - count
        out[shard, np.arange(len(cluster)) - first[shard]] = cluster
        return out.ravel()


def active_lists(dataset: Dataset, recipe: Recipe, shards: int) -> ActiveLists:
    """Returns lists with room for what a batch of this recipe is expected to touch.

    Args:
        dataset: whose training counts say how often each cluster is drawn.
        recipe: the batch's size.
        shards: shards of the tables, the last of which may have clusters that only
            make it as long as the others.
    """
    chance = _chances(dataset, recipe)
    chance = np.pad(chance, (0, -len(chance) % shards))
    capacity = expected_capacity(chance, shards)
    return ActiveLists(len(chance), dataset.info.cluster_size, shards, capacity)


def expected_capacity(chance: np.ndarray, shards: int) -> int:
    """Returns how many touched clusters a shard's list should have room for.

    Args:
        chance: float [cluster], of each to be touched.
        shards: shards of the tables, each a range of clusters.
    """
    chance = chance.reshape(shards, -1)
    spread = np.sqrt((chance * (1 - chance)).sum(axis=1))
    most = int(np.ceil((chance.sum(axis=1) + _MARGIN * spread).max()))
    return max(1, min(-(-most // _MULTIPLE) * _MULTIPLE, chance.shape[1]))


def chances(counts: np.ndarray, draws: int) -> np.ndarray:
    """Returns each cluster's chance to be touched by independent draws.

    Args:
        counts: float [cluster], how often each is drawn, on any scale.
        draws: how many there are.
    """
    return -np.expm1(-draws * counts / max(counts.sum(), 1e-30))


def chosen(wanted: ItemOptimizer, dataset: Dataset, recipe: Recipe) -> ItemOptimizer:
    """Returns the optimizer that `auto` stands for, or the one that was asked for."""
    if wanted != "auto":
        return wanted
    share = _chances(dataset, recipe).mean()
    return "lazy_adam" if share < SPARSE_BELOW else "dense"


def _chances(dataset: Dataset, recipe: Recipe) -> np.ndarray:
    """Chance of each cluster to be touched by a batch."""
    counts = dataset.item_counts.sum(axis=1).astype(np.float64)
    return chances(counts, recipe.batch_size * (recipe.seq_len + 1))
