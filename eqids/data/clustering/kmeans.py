"""Balanced k-means for millions of items: the caller gives the size of every cluster.

For two centroids, the best clusters of given sizes are known exactly: sort the items
along the line between the centroids, and cut. So parts are bisected until there are as
many parts as clusters (Steinbach, Karypis and Kumar 2000). Then pairs of neighbouring
clusters are joined and cut again, several times. Time grows as items log clusters.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, Int32
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from eqids.io.cores import num_cores

_SAMPLE = 8192
"""Items in the sample from which the two centroids of a larger part are found."""
_STARTS = 4
"""Number of pairs of items from which a bisection starts; the best result is kept."""
_ITERATIONS = 8
_PASSES = 16
"""How often clusters are cut again with one of their neighbours."""
_NEIGHBOURS = 8
_CHUNK = 2**16
"""Rows of vectors that a thread copies at a time."""
_DISTANCES = 2**22
"""Distances that a thread holds at a time."""


def balanced_kmeans(
    vectors: Float[np.ndarray, "item vector_width"],
    sizes: Int[np.ndarray, " cluster"],
    weights: Float[np.ndarray, " item"],
    seed: int,
    spherical: bool = False,
    report: Callable[[int], None] = lambda step: None,
) -> Int32[np.ndarray, " item"]:
    """Returns the cluster of every item; cluster c gets `sizes[c]` items.

    Args:
        vectors: float32 [item, width], finite.
        sizes: int [cluster], each 1 or more; their sum is the number of items.
        weights: float32 [item], above 0: an item's weight in a centroid.
        seed: the seed of samples and starts; the number of cores does not change the
            result.
        spherical: cluster directions (cosine) instead of points.
        report: receives how many of `num_steps` are done.

    Returns:
        int32 [item].
    """
    parts = _Parts(vectors, sizes, weights, seed, spherical)
    # Threads share the parts. BLAS's own threads would wait for each other in small
    # products.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_cores()) as pool:
        for step in range(num_steps(len(sizes))):
            if step < _levels(len(sizes)):
                parts.bisect(pool)
            else:
                parts.improve(pool, step)
            report(step + 1)
    cluster = np.empty(len(vectors), np.int32)
    cluster[parts.items] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return cluster


def num_steps(num_clusters: int) -> int:
    """Returns the steps of `balanced_kmeans`, which take about equally long."""
    return _levels(num_clusters) + _PASSES if num_clusters > 1 else 0


def kmeans_bytes(num_items: int, width: int) -> int:
    """Returns the peak memory of `balanced_kmeans` in bytes, with the vectors.

    Args:
        num_items: rows of the vectors.
        width: columns of the vectors.
    """
    vectors = 4 * num_items * width
    # The items and their new order, int64; positions along the axis; weights.
    order = num_items * (8 + 2 * 8 + 4 + 4)
    # Of a thread: copied rows, or distances with their order.
    return vectors + order + num_cores() * max(8 * width * _CHUNK, 20 * _DISTANCES)


def _levels(num_clusters: int) -> int:
    return math.ceil(math.log2(num_clusters))


class _Parts:
    """Items in the order of their clusters, and how clusters are cut."""

    def __init__(
        self,
        vectors: np.ndarray,
        sizes: np.ndarray,
        weights: np.ndarray,
        seed: int,
        spherical: bool,
    ):
        self.items = np.arange(len(vectors))
        self._vectors, self._weights = vectors, weights
        self._seed, self._spherical = seed, spherical
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._parts = [(0, len(sizes))]
        self._centres: np.ndarray | None = None

    def bisect(self, pool: ThreadPoolExecutor) -> None:
        """Cuts every part into two, until a part is a cluster."""
        halves = pool.map(self._split, self._parts)
        self._parts = [half for both in halves for half in both]

    def _split(self, part: tuple[int, int]) -> list[tuple[int, int]]:
        first, last = part
        if last - first == 1:
            return [part]
        middle = (first + last) // 2
        start, cut, stop = self._starts[[first, middle, last]].tolist()
        items = self.items[start:stop]
        rng = np.random.default_rng([self._seed, first, last])
        sample = items
        if len(items) > _SAMPLE:
            sample = items[np.sort(rng.integers(0, len(items), _SAMPLE))]
        num_left = round(len(sample) * (cut - start) / len(items))
        num_left = min(max(num_left, 1), len(sample) - 1)
        rows = self._rows(sample)
        pairs = rng.integers(0, len(rows), (2, _STARTS))
        axes = rows[pairs[0]] - rows[pairs[1]]
        axis = _best_axis(rows, self._weights[sample], num_left, axes)
        order = np.argpartition(self._along(items, axis), cut - start)
        self.items[start:stop] = items[order]
        return [(first, middle), (middle, last)]

    def improve(self, pool: ThreadPoolExecutor, step: int) -> None:
        """Joins each cluster with a near one, and cuts the two again."""
        if self._centres is None:
            clusters = range(len(self._starts) - 1)
            self._centres = np.stack(list(pool.map(self._centre, clusters)))
        rng = np.random.default_rng([self._seed, step])
        near = np.concatenate(list(pool.map(self._nearest, self._some_clusters())))
        pairs = _matched(near, rng)
        starts = rng.integers(0, 2**32, (len(pairs), 2))
        list(pool.map(self._cut_again, pairs, starts))

    def _cut_again(self, pair: tuple[int, int], start: np.ndarray) -> None:
        assert self._centres is not None
        left, right = (slice(*self._starts[[c, c + 1]].tolist()) for c in pair)
        items = np.concatenate([self.items[left], self.items[right]])
        rows, weights = self._rows(items), self._weights[items]
        now = self._centres[pair[1]] - self._centres[pair[0]]
        one, other = start % len(rows)
        axes = np.stack([now, rows[one] - rows[other]])
        cut = left.stop - left.start
        axis = _best_axis(rows, weights, cut, axes)
        order = np.argpartition(rows @ axis, cut)
        self.items[left], self.items[right] = items[order[:cut]], items[order[cut:]]
        for cluster, here in zip(pair, (order[:cut], order[cut:]), strict=True):
            self._centres[cluster] = _mean(rows[here], weights[here])

    def _centre(self, cluster: int) -> np.ndarray:
        items = self.items[slice(*self._starts[[cluster, cluster + 1]].tolist())]
        return _mean(self._rows(items), self._weights[items])

    def _some_clusters(self) -> Iterator[slice]:
        num_clusters = len(self._starts) - 1
        size = max(1, _DISTANCES // num_clusters)
        return (slice(at, at + size) for at in range(0, num_clusters, size))

    def _nearest(self, some: slice) -> np.ndarray:
        """int32 [some, neighbour]: clusters whose centroids are nearest."""
        assert self._centres is not None
        centres = self._centres
        square = np.einsum("cw,cw->c", centres, centres)
        distance = square - 2 * centres[some] @ centres.T
        rows = np.arange(len(distance))
        distance[rows, rows + some.start] = np.inf
        num_near = min(_NEIGHBOURS, len(centres) - 1)
        near = np.argpartition(distance, num_near - 1, axis=1)[:, :num_near]
        # Not a view, which would keep all the rest.
        return near.astype(np.int32)

    def _rows(self, items: np.ndarray) -> np.ndarray:
        """float32 [item, width], a copy."""
        rows = self._vectors[items]
        if self._spherical:
            length = np.sqrt(np.einsum("iw,iw->i", rows, rows))[:, None]
            rows /= np.where(length > 0, length, 1)
        return rows

    def _along(self, items: np.ndarray, axis: np.ndarray) -> np.ndarray:
        """float32 [item]: the position of each along an axis."""
        position = np.empty(len(items), np.float32)
        for start in range(0, len(items), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            np.matmul(self._rows(items[chunk]), axis, out=position[chunk])
        return position


def _best_axis(
    rows: np.ndarray, weights: np.ndarray, num_left: int, axes: np.ndarray
) -> np.ndarray:
    """The line between two centroids that are the means of their items when cut there.

    Of several lines, this is the one whose clusters are furthest apart, which therefore
    have the least variance inside.

    Args:
        rows: float32 [item, width].
        weights: float32 [item].
        num_left: items on the left side of the cut.
        axes: float32 [start, width], the lines to start from.

    Returns:
        float32 [width], from the left centroid to the right one.
    """
    total, everything = weights.sum(), weights @ rows
    for _ in range(_ITERATIONS):
        left = np.argpartition(axes @ rows.T, num_left, axis=1)[:, :num_left]
        right = np.tile(weights, (len(axes), 1))
        np.put_along_axis(right, left, 0, axis=1)
        heavy = right.sum(axis=1, keepdims=True)
        sums = right @ rows
        before, axes = axes, sums / heavy - (everything - sums) / (total - heavy)
        if np.array_equal(before, axes):
            break
    heavy = heavy[:, 0] / total
    apart = heavy * (1 - heavy) * np.einsum("sw,sw->s", axes, axes)
    return axes[np.argmax(apart)]


def _mean(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ rows / weights.sum()


def _matched(near: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs clusters at random with a near one; each is in one pair at most."""
    free, pairs = np.ones(len(near), np.bool_), list[tuple[int, int]]()
    for cluster in rng.permutation(len(near)).tolist():
        there = near[cluster][free[near[cluster]]]
        if free[cluster] and len(there):
            other = int(there[rng.integers(len(there))])
            free[[cluster, other]] = False
            pairs.append((cluster, other))
    return pairs
