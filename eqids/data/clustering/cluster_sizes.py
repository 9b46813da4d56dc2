"""Assigns items to clusters of equal size, and numbers clusters for even shards."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int32

from eqids.config import require
from eqids.config.slots import slot_of
from eqids.data.clustering.kmeans import balanced_kmeans

ClusterMethod = Literal["kmeans", "popularity", "random"]


def assign(
    method: ClusterMethod,
    vectors: Float[np.ndarray, "item vector_width"],
    counts: Int[np.ndarray, " item"],
    num_clusters: int,
    seed: int,
    spherical: bool = False,
    report: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Returns the cluster of every item; sizes differ by one at most.

    An item's weight in the centroids of k-means is the square root of its count,
    because the cluster of a rarely used item matters little.

    Args:
        method: kmeans (of `vectors`), popularity (neighbours in `counts`) or random.
        vectors: float32 [item, width].
        counts: int [item], training events of each.
        num_clusters: at most the number of items.
        seed: the seed of k-means and of the numbers of clusters, see `shared_numbers`.
        spherical: whether k-means compares vectors by direction only.
        report: receives the number of steps of k-means that are done.

    Returns:
        int32 [item].
    """
    num_items, rng = len(vectors), np.random.default_rng(seed)
    require(
        1 <= num_clusters <= num_items,
        f"--num_clusters is {num_clusters}, wanted 1 to {num_items}, the number of "
        "items",
    )
    sizes = np.full(num_clusters, num_items // num_clusters)
    sizes[: num_items % num_clusters] += 1
    if method == "kmeans":
        weights = np.sqrt(1 + counts, dtype=np.float32)
        cluster = balanced_kmeans(vectors, sizes, weights, seed, spherical, report)
    else:
        popular = np.argsort(-counts, kind="stable")
        order = popular if method == "popularity" else rng.permutation(num_items)
        cluster = np.empty(num_items, np.int32)
        cluster[order] = np.repeat(np.arange(num_clusters, dtype=np.int32), sizes)
    loads = np.bincount(cluster, counts, num_clusters)
    return shared_numbers(loads, seed)[cluster]


def shared_numbers(loads: np.ndarray, seed: int) -> np.ndarray:
    """Returns numbers of clusters, so that ranges of numbers share the load evenly.

    A shard of the catalog is a range of clusters. In order of popularity, one shard
    would get most targets. Here the two halves of the range differ by at most one
    cluster's load, and so do the halves of each half. So the load is even for any
    number of shards that is a power of two and divides the clusters.

    Args:
        loads: float [cluster], training events of its items.
        seed: the seed of the order of equal clusters.

    Returns:
        int32 [cluster], the number of each.
    """
    order = np.random.default_rng(seed).permutation(len(loads))
    parts = [order[np.argsort(-loads[order], kind="stable")].tolist()]
    while any(len(part) > 1 for part in parts):
        parts = [half for part in parts for half in _halves(part, loads)]
    number = np.empty(len(loads), np.int32)
    number[np.concatenate(parts)] = np.arange(len(loads), dtype=np.int32)
    return number


def _halves(part: list[int], loads: np.ndarray) -> list[list[int]]:
    """Deals clusters, heaviest first, each to the lighter half until it is full."""
    if len(part) == 1:
        return [part]
    left, right, ahead = list[int](), list[int](), 0.0
    for cluster in part:
        wanted = left if ahead <= 0 else right
        other = right if ahead <= 0 else left
        free = (len(part) + (wanted is left)) // 2 - len(wanted)
        half = wanted if free else other
        half.append(cluster)
        ahead += loads[cluster] if half is left else -loads[cluster]
    return [left, right]


def place(
    cluster: Int[np.ndarray, " item"], num_clusters: int, free_share: float = 0.0
) -> tuple[Int32[np.ndarray, " item"], int]:
    """Returns slots of items whose clusters are given.

    Args:
        cluster: int [item].
        num_clusters: number of clusters.
        free_share: share of the largest cluster's places that stay free, rounded down
            to whole places.

    Returns:
        Slots [item], which within a cluster follow the order of items; and
        cluster_size, the size of the largest cluster and its free places.
    """
    sizes = np.bincount(cluster, minlength=num_clusters)
    # 1e-9: 9 / (1 - 0.1) must give 10, in spite of floating-point rounding.
    cluster_size = int(sizes.max() / (1 - free_share) + 1e-9)
    order = np.argsort(cluster, kind="stable")
    rank = np.empty(len(cluster), np.int64)
    rank[order] = np.arange(len(cluster)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return slot_of(cluster, rank, cluster_size).astype(np.int32), cluster_size
