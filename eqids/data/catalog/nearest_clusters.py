"""Where items may go in a catalog: the nearest cluster, its parts, its free places."""

import numpy as np

_DISTANCES = 2**24
"""Distances held at a time (64 MiB)."""


def grouped(cluster: np.ndarray, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """The items of every cluster, one cluster after the other.

    Args:
        cluster: int [item]; -1 for an item that is in none.
        num_clusters: how many there are.

    Returns:
        int64 [item in a cluster], and the size of each cluster, int64 [cluster].
    """
    order = np.argsort(cluster, kind="stable")
    members = order[np.count_nonzero(cluster < 0) :]
    return members, np.bincount(cluster[members], minlength=num_clusters)


def centres(vectors: np.ndarray, cluster: np.ndarray, num_clusters: int) -> np.ndarray:
    """The mean vector of every cluster's items; zeros where there are none.

    Args:
        vectors: float32 [item, vector_width].
        cluster: int [item].
        num_clusters: how many there are.

    Returns:
        float32 [cluster, vector_width].
    """
    members, sizes = grouped(cluster, num_clusters)
    held = np.flatnonzero(sizes)
    out = np.zeros((num_clusters, vectors.shape[1]), np.float32)
    if len(held):
        starts = (np.cumsum(sizes) - sizes)[held]
        out[held] = np.add.reduceat(vectors[members], starts) / sizes[held, None]
    return out


def nearest(
    vectors: np.ndarray, centre: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """The candidate whose centre is nearest to each vector, in Euclidean distance.

    Args:
        vectors: float32 [item, vector_width].
        centre: float32 [cluster, vector_width].
        candidates: int [candidate], clusters.

    Returns:
        int64 [item], clusters; -1 for a vector of zeros (nothing is known of the
        item) and where there are no candidates.
    """
    chosen = np.full(len(vectors), -1, np.int64)
    if not len(candidates):
        return chosen
    known = np.flatnonzero((vectors != 0).any(axis=1))
    among = centre[candidates]
    half_square = 0.5 * np.einsum("cw,cw->c", among, among)
    size = max(1, _DISTANCES // len(candidates))
    for rows in np.split(known, range(size, len(known), size)):
        near = np.argmin(half_square - vectors[rows] @ among.T, axis=1)
        chosen[rows] = candidates[near]
    return chosen


def divide(vectors: np.ndarray, num_parts: int) -> np.ndarray:
    """Parts of equal size along the direction in which the vectors vary most.

    Args:
        vectors: float32 [item, vector_width], at least one for each part.
        num_parts: how many parts.

    Returns:
        int64 [item], the part of each; sizes differ by one at most.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(centred @ directions[:, -1], kind="stable")
    part = np.empty(len(vectors), np.int64)
    part[order] = np.arange(len(vectors)) * num_parts // len(vectors)
    return part


def emptiest(sizes: np.ndarray, cluster_size: int, num_items: int) -> np.ndarray:
    """A cluster for each of some items of which nothing is known.

    One after the other they enter the cluster with most free places; clusters
    without any items, of which nothing has been learned, come last.

    Args:
        sizes: int [cluster], places taken; the free ones must suffice.
        cluster_size: places in a cluster.
        num_items: how many enter.

    Returns:
        int64 [num_items], clusters.
    """
    free = cluster_size - sizes
    cluster = np.repeat(np.arange(len(sizes)), free)
    left = free[cluster] - _rank(free)
    order = np.lexsort((cluster, -left, sizes[cluster] == 0))
    return cluster[order[:num_items]]


def free_slots(occupied: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """A free slot for each entrant, the lowest of its cluster first.

    Args:
        occupied: bool [cluster, place], places that are taken.
        cluster: int [entrant]; no more entrants than a cluster has free places.

    Returns:
        int32 [entrant].
    """
    entered, sizes = np.unique(cluster, return_counts=True)
    places = np.argsort(occupied[entered], axis=1, kind="stable")
    row = np.repeat(np.arange(len(entered)), sizes)
    slots = np.empty(len(cluster), np.int32)
    order = np.argsort(cluster, kind="stable")
    slots[order] = entered[row] * occupied.shape[1] + places[row, _rank(sizes)]
    return slots


def _rank(sizes: np.ndarray) -> np.ndarray:
    """0, 1, … within each of consecutive groups of the given sizes."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
