"""Finds clusters and places for items: nearest clusters, their parts, free places."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from eqids.config.slots import slot_of

_DISTANCES = 2**24
"""Distances held in memory at a time (64 MiB)."""


def grouped(
    cluster: Int[np.ndarray, " item"], num_clusters: int
) -> tuple[Int64[np.ndarray, " member"], Int64[np.ndarray, " cluster"]]:
    """Returns the items of every cluster, one cluster after the other.

    Args:
        cluster: the cluster of each item; -1 for none.
        num_clusters: number of clusters.

    Returns:
        The items in clusters, and the size of each cluster.
    """
    order = np.argsort(cluster, kind="stable")
    members = order[np.count_nonzero(cluster < 0) :]
    return members, np.bincount(cluster[members], minlength=num_clusters)


def centres(
    vectors: Float[np.ndarray, "item vector_width"],
    cluster: Int[np.ndarray, " item"],
    num_clusters: int,
) -> Float32[np.ndarray, "cluster vector_width"]:
    """Returns the mean vector of every cluster's items; zeros for an empty cluster."""
    members, sizes = grouped(cluster, num_clusters)
    held = np.flatnonzero(sizes)
    out = np.zeros((num_clusters, vectors.shape[1]), np.float32)
    if len(held):
        starts = (np.cumsum(sizes) - sizes)[held]
        out[held] = np.add.reduceat(vectors[members], starts) / sizes[held, None]
    return out


def nearest(
    vectors: Float[np.ndarray, "item vector_width"],
    centre: Float[np.ndarray, "cluster vector_width"],
    candidates: Int[np.ndarray, " candidate"],
) -> Int64[np.ndarray, " item"]:
    """Returns the candidate cluster whose centre is nearest to each vector.

    The distance is Euclidean. The result is -1 for a vector of zeros, which means an
    item without information, and if there are no candidates.
    """
    chosen = np.full(len(vectors), -1, np.int64)
    if not len(candidates):
        return chosen
    nonzero = np.flatnonzero((vectors != 0).any(axis=1))
    among = centre[candidates]
    half_square = 0.5 * np.einsum("cw,cw->c", among, among)
    size = max(1, _DISTANCES // len(candidates))
    for rows in np.split(nonzero, range(size, len(nonzero), size)):
        near = np.argmin(half_square - vectors[rows] @ among.T, axis=1)
        chosen[rows] = candidates[near]
    return chosen


def divide(
    vectors: Float[np.ndarray, "item vector_width"], num_parts: int
) -> Int64[np.ndarray, " item"]:
    """Returns parts of equal size along the direction in which vectors vary most.

    Args:
        vectors: at least one for each part.
        num_parts: number of parts.

    Returns:
        The part of each item; sizes differ by one at most.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(centred @ directions[:, -1], kind="stable")
    part = np.empty(len(vectors), np.int64)
    part[order] = np.arange(len(vectors)) * num_parts // len(vectors)
    return part


def emptiest(
    sizes: Int[np.ndarray, " cluster"], cluster_size: int, num_items: int
) -> Int64[np.ndarray, " new"]:
    """Returns a cluster for each item without a vector.

    Each goes to the cluster with most free places. Empty clusters come last, because
    the model has learnt nothing about them.

    Args:
        sizes: items of each cluster; there must be enough free places.
        cluster_size: places in a cluster.
        num_items: number of items.
    """
    free = cluster_size - sizes
    cluster = np.repeat(np.arange(len(sizes)), free)
    left = free[cluster] - _rank(free)
    order = np.lexsort((cluster, -left, sizes[cluster] == 0))
    return cluster[order[:num_items]]


def free_slots(
    occupied: Bool[np.ndarray, "cluster place"], cluster: Int[np.ndarray, " new"]
) -> Int32[np.ndarray, " new"]:
    """Returns a free slot for each new item, the lowest of its cluster first.

    Args:
        occupied: places that hold an item.
        cluster: the cluster of each new item; it must have enough free places.
    """
    distinct, sizes = np.unique(cluster, return_counts=True)
    places = np.argsort(occupied[distinct], axis=1, kind="stable")
    row = np.repeat(np.arange(len(distinct)), sizes)
    slots = np.empty(len(cluster), np.int32)
    order = np.argsort(cluster, kind="stable")
    place = places[row, _rank(sizes)]
    slots[order] = slot_of(distinct[row], place, occupied.shape[1])
    return slots


def _rank(sizes: np.ndarray) -> np.ndarray:
    """0, 1, … within each of consecutive groups of the given sizes."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
