"""Assigns items to places when a catalog changes, and divides full clusters."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int32

from eqids.config.slots import cluster_of
from eqids.data.catalog.nearest_clusters import (
    centres,
    divide,
    emptiest,
    free_slots,
    grouped,
    nearest,
)

STEP = 64
"""If the number of clusters is a multiple of this, it stays one as the catalog grows,
so that the same meshes divide it."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The slots of all items, and the clusters that were filled."""

    slot: Int32[np.ndarray, " item"]
    """The slot of each item, new items last."""
    num_clusters: int
    """Clusters, empty ones included."""
    filled: Int32[np.ndarray, " filled"]
    """Clusters that were empty before."""
    parent: Int32[np.ndarray, " filled"]
    """For each of these clusters, the cluster that a part was moved from, or -1."""


def grown(num_clusters: int, more: int) -> int:
    """Returns the number of clusters after adding some; see `STEP`."""
    total = num_clusters + more
    return -(-total // STEP) * STEP if num_clusters % STEP == 0 else total


def assign_new(
    slot: Int32[np.ndarray, " item"],
    vectors: Float[np.ndarray, "item vector_width"],
    new_vectors: Float[np.ndarray, "new vector_width"],
    num_clusters: int,
    cluster_size: int,
) -> Assignment:
    """Assigns each new item to the cluster nearest to its vector.

    A cluster with too few free places is divided, new items included. New items
    whose vector is zeros go to the clusters with most free places.

    Args:
        slot: the slots of the existing items.
        vectors: the vectors of the existing items.
        new_vectors: the vectors of the new items.
        num_clusters: clusters, empty ones included.
        cluster_size: places in a cluster.
    """
    cluster = cluster_of(slot, cluster_size)
    sizes = np.bincount(cluster, minlength=num_clusters)
    centre = centres(vectors, cluster, num_clusters)
    chosen = nearest(new_vectors, centre, np.flatnonzero(sizes))
    num_new = np.bincount(chosen[chosen >= 0], minlength=num_clusters)
    full = np.flatnonzero((sizes + num_new > cluster_size) & (num_new > 0))
    all_clusters = np.concatenate([cluster, chosen])
    vectors = np.concatenate([vectors, new_vectors])
    parts = _divide(all_clusters, vectors, len(slot), num_clusters, full, cluster_size)
    return _place(slot, parts, cluster_size)


def divide_clusters(
    slot: Int32[np.ndarray, " item"],
    vectors: Float[np.ndarray, "item vector_width"],
    num_clusters: int,
    cluster_size: int,
    full: Int[np.ndarray, " full"],
    most: int,
) -> Assignment:
    """Divides clusters into two or more parts of at most `most` items.

    Args:
        slot: the slots of the items.
        vectors: the vectors of the items.
        num_clusters: clusters, empty ones included.
        cluster_size: places in a cluster.
        full: the clusters to divide, each with two items or more.
        most: most items of a part.
    """
    cluster = cluster_of(slot, cluster_size)
    parts = _divide(cluster, vectors, len(slot), num_clusters, full, most)
    return _place(slot, parts, cluster_size)


@dataclass(frozen=True, eq=False)
class _Clusters:
    """The cluster of each item, -1 for any cluster; the rest as in `Assignment`."""

    cluster: np.ndarray
    num_clusters: int
    filled: np.ndarray
    parent: np.ndarray


def _divide(
    cluster: np.ndarray,
    vectors: np.ndarray,
    num_old: int,
    num_clusters: int,
    full: np.ndarray,
    most: int,
) -> _Clusters:
    """Divides full clusters; the part with most existing items keeps its cluster."""
    members, sizes = grouped(cluster, num_clusters)
    ends = np.cumsum(sizes)
    num_parts = np.maximum(2, -(-sizes[full] // most))
    needed = int((num_parts - 1).sum())
    empty = np.flatnonzero(sizes == 0)
    total = num_clusters
    if needed > len(empty):
        total = grown(num_clusters, needed - len(empty))
    filled = np.concatenate([empty, np.arange(num_clusters, total)])[:needed]
    each = np.stack([full, num_parts, np.cumsum(num_parts - 1)], axis=1)
    out = cluster.copy()
    for one, number, end in each.tolist():
        rows = members[ends[one] - sizes[one] : ends[one]]
        part = divide(vectors[rows], number)
        old = np.bincount(part[rows < num_old], minlength=number)
        others = filled[end - number + 1 : end]
        out[rows] = np.insert(others, int(np.argmax(old)), one)[part]
    return _Clusters(out, total, filled, np.repeat(full, num_parts - 1))


def _place(slot: np.ndarray, clusters: _Clusters, cluster_size: int) -> Assignment:
    """Finds places for new items and for items whose cluster changes."""
    num_old, total = len(slot), clusters.num_clusters
    cluster = clusters.cluster.copy()
    anywhere = np.flatnonzero(cluster < 0)
    sizes = np.bincount(cluster[cluster >= 0], minlength=total)
    missing = len(anywhere) - (total * cluster_size - int(sizes.sum()))
    if missing > 0:
        total = grown(total, -(-missing // cluster_size))
        sizes = np.append(sizes, np.zeros(total - len(sizes), sizes.dtype))
    cluster[anywhere] = emptiest(sizes, cluster_size, len(anywhere))
    fresh = np.setdiff1d(cluster[anywhere], np.flatnonzero(sizes))
    stays = np.flatnonzero(cluster[:num_old] == cluster_of(slot, cluster_size))
    occupied = np.zeros((total, cluster_size), np.bool_)
    occupied.reshape(-1)[slot[stays]] = True
    out = np.full(len(cluster), -1, np.int32)
    out[stays] = slot[stays]
    enters = np.flatnonzero(out < 0)
    out[enters] = free_slots(occupied, cluster[enters])
    filled = np.concatenate([clusters.filled, fresh]).astype(np.int32)
    parent = np.concatenate([clusters.parent, np.full(len(fresh), -1)])
    return Assignment(out, total, filled, parent.astype(np.int32))
