"""Lists the active clusters of a batch, those of its items and targets, on the host.

The lists of all batches have one length, so that the step compiles once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from eqids.config.slots import cluster_of
from eqids.data.batches.host_batch import HostBatch

_MARGIN = 4.0
"""How much longer a list is than the expected number of clusters, in standard
deviations."""
_MULTIPLE = 16


@dataclass(frozen=True)
class ClusterLists:
    """Lists the active clusters of a batch, shard by shard.

    Attributes:
        num_clusters: clusters of the tables on the mesh, padding included.
        cluster_size: places in a cluster.
        num_shards: shards of the tables, each a range of clusters.
        capacity: length of a shard's list. A batch with more active clusters gets a
            list twice as long (or more), and the step compiles again for it; no
            cluster is ever left out.
    """

    num_clusters: int
    cluster_size: int
    num_shards: int
    capacity: int

    def of_batch(self, batch: HostBatch) -> Int[np.ndarray, " active"]:
        """Returns the clusters of a batch's items and targets; see `of_slots`."""
        return self.of_slots(np.concatenate([batch.items, batch.target]))

    def of_slots(self, slots: Int[np.ndarray, "*axes"]) -> Int[np.ndarray, " active"]:
        """Returns the clusters of slots; slot -1 is ignored.

        Returns:
            int32 [num_shards * capacity]: each shard's clusters, ascending, padded with
            `num_clusters` to its capacity.
        """
        cluster = np.unique(cluster_of(slots[slots >= 0], self.cluster_size))
        shard = cluster // (self.num_clusters // self.num_shards)
        count = np.bincount(shard, minlength=self.num_shards)
        capacity = self.capacity
        while capacity < count.max():
            capacity *= 2
        out = np.full((self.num_shards, capacity), self.num_clusters, np.int32)
        first = np.cumsum(count) - count
        out[shard, np.arange(len(cluster)) - first[shard]] = cluster
        return out.ravel()


def expected_capacity(chance: Float[np.ndarray, " cluster"], num_shards: int) -> int:
    """Returns how long a shard's list of active clusters should be.

    Args:
        chance: the chance of each cluster to be active.
        num_shards: shards of the tables, each a range of clusters.
    """
    chance = chance.reshape(num_shards, -1)
    spread = np.sqrt((chance * (1 - chance)).sum(axis=1))
    most = int(np.ceil((chance.sum(axis=1) + _MARGIN * spread).max()))
    return max(1, min(-(-most // _MULTIPLE) * _MULTIPLE, chance.shape[1]))


def chances(
    counts: Float[np.ndarray, " cluster"], draws: int
) -> Float[np.ndarray, " cluster"]:
    """Returns the chance of each cluster to be drawn at least once.

    Args:
        counts: how often each cluster is drawn, on any scale.
        draws: how many independent draws there are.
    """
    return -np.expm1(-draws * counts / max(counts.sum(), 1e-30))
