"""Who sits where when a catalog changes: clusters divide, newcomers find places."""

from dataclasses import dataclass

import numpy as np

from eqids.data.catalog.nearest_clusters import (
    centres,
    divide,
    emptiest,
    free_slots,
    grouped,
    nearest,
)

STEP = 64
"""Catalogs whose number of clusters is a multiple of this keep it one as they grow,
so that meshes go on dividing them."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Where everyone is, and which clusters hold items for the first time."""

    slot: np.ndarray
    """int32 [item], newcomers last."""
    num_clusters: int
    """Clusters, empty ones included."""
    opened: np.ndarray
    """int32 [opened]: clusters that held nothing before."""
    parent: np.ndarray
    """int32 [opened]: the cluster that each of them divides, or -1."""


def grown(num_clusters: int, more: int) -> int:
    """The number of clusters when so many are added, see `STEP`."""
    total = num_clusters + more
    return -(-total // STEP) * STEP if num_clusters % STEP == 0 else total


def assign_new(
    slot: np.ndarray,
    vectors: np.ndarray,
    new_vectors: np.ndarray,
    num_clusters: int,
    cluster_size: int,
) -> Assignment:
    """Seats newcomers, each in the cluster nearest to its vector.

    A cluster that has too few places divides together with them. Those whose vector
    is zeros go where most places are free.

    Args:
        slot: int32 [item], of those who are there.
        vectors: float32 [item, vector_width].
        new_vectors: float32 [new, vector_width].
        num_clusters: clusters, empty ones included.
        cluster_size: places in a cluster.
    """
    cluster = slot // cluster_size
    sizes = np.bincount(cluster, minlength=num_clusters)
    centre = centres(vectors, cluster, num_clusters)
    chosen = nearest(new_vectors, centre, np.flatnonzero(sizes))
    guests = np.bincount(chosen[chosen >= 0], minlength=num_clusters)
    crowded = np.flatnonzero((sizes + guests > cluster_size) & (guests > 0))
    everyone = np.concatenate([cluster, chosen])
    vectors = np.concatenate([vectors, new_vectors])
    wanted = _divide(everyone, vectors, len(slot), num_clusters, crowded, cluster_size)
    return _sit(slot, wanted, cluster_size)


def spread(
    slot: np.ndarray,
    vectors: np.ndarray,
    num_clusters: int,
    cluster_size: int,
    crowded: np.ndarray,
    most: int,
) -> Assignment:
    """Divides clusters into as many parts as no more than `most` items need, or two.

    Args:
        slot: int32 [item].
        vectors: float32 [item, vector_width].
        num_clusters: clusters, empty ones included.
        cluster_size: places in a cluster.
        crowded: int [crowded], clusters of two items or more.
        most: items of a part.
    """
    cluster = slot // cluster_size
    wanted = _divide(cluster, vectors, len(slot), num_clusters, crowded, most)
    return _sit(slot, wanted, cluster_size)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The cluster of everyone, -1 where any will do; the rest as in `Assignment`."""

    cluster: np.ndarray
    num_clusters: int
    opened: np.ndarray
    parent: np.ndarray


def _divide(
    cluster: np.ndarray,
    vectors: np.ndarray,
    num_old: int,
    num_clusters: int,
    crowded: np.ndarray,
    most: int,
) -> _Wanted:
    """Divides the crowded clusters; the part of most old items stays where it is."""
    members, sizes = grouped(cluster, num_clusters)
    ends = np.cumsum(sizes)
    parts = np.maximum(2, -(-sizes[crowded] // most))
    needed = int((parts - 1).sum())
    empty = np.flatnonzero(sizes == 0)
    total = num_clusters
    if needed > len(empty):
        total = grown(num_clusters, needed - len(empty))
    opened = np.concatenate([empty, np.arange(num_clusters, total)])[:needed]
    each = np.stack([crowded, parts, np.cumsum(parts - 1)], axis=1)
    out = cluster.copy()
    for one, number, end in each.tolist():
        rows = members[ends[one] - sizes[one] : ends[one]]
        part = divide(vectors[rows], number)
        old = np.bincount(part[rows < num_old], minlength=number)
        others = opened[end - number + 1 : end]
        out[rows] = np.insert(others, int(np.argmax(old)), one)[part]
    return _Wanted(out, total, opened, np.repeat(crowded, parts - 1))


def _sit(slot: np.ndarray, wanted: _Wanted, cluster_size: int) -> Assignment:
    """Finds a place for everyone who moves or is new; the others stay."""
    num_old, total = len(slot), wanted.num_clusters
    cluster = wanted.cluster.copy()
    anywhere = np.flatnonzero(cluster < 0)
    sizes = np.bincount(cluster[cluster >= 0], minlength=total)
    missing = len(anywhere) - (total * cluster_size - int(sizes.sum()))
    if missing > 0:
        total = grown(total, -(-missing // cluster_size))
        sizes = np.append(sizes, np.zeros(total - len(sizes), sizes.dtype))
    cluster[anywhere] = emptiest(sizes, cluster_size, len(anywhere))
    fresh = np.setdiff1d(cluster[anywhere], np.flatnonzero(sizes))
    stays = np.flatnonzero(cluster[:num_old] == slot // cluster_size)
    occupied = np.zeros((total, cluster_size), np.bool_)
    occupied.reshape(-1)[slot[stays]] = True
    out = np.full(len(cluster), -1, np.int32)
    out[stays] = slot[stays]
    enters = np.flatnonzero(out < 0)
    out[enters] = free_slots(occupied, cluster[enters])
    opened = np.concatenate([wanted.opened, fresh]).astype(np.int32)
    parent = np.concatenate([wanted.parent, np.full(len(fresh), -1)]).astype(np.int32)
    return Assignment(out, total, opened, parent)
