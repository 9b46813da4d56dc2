"""The directions of item vectors in host memory: hints, and maps of the catalog."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float16, Float32, Int, Int32, UInt16

from eqids.data.clustering.kmeans import balanced_kmeans

_CHUNK = 16_384
"""Rows that are computed in float32 at a time."""
_FINEST = 2**16 - 1
"""The largest coordinate of a map."""


def directions(
    vectors: Float[np.ndarray, "cluster place item_width"],
) -> Float16[np.ndarray, "slot item_width"]:
    """Returns vectors of length 1, by slot; zeros stay zeros.

    Args:
        vectors: of all items, in any float type.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    found = np.empty(rows.shape, np.float16)
    for at in _chunks(len(rows)):
        part = np.asarray(rows[at], np.float32)
        length = np.linalg.norm(part, axis=1, keepdims=True)
        found[at] = part / np.where(length > 0, length, 1)
    return found


def nearest_in_history(
    vectors: Float16[np.ndarray, "slot item_width"],
    slots: Int[np.ndarray, " item"],
    history: Int[np.ndarray, " event"],
    most: int,
) -> list[list[tuple[int, float]]]:
    """Returns the items of a history that are nearest to each item, with the cosines.

    Args:
        vectors: see `directions`.
        slots: the items; none is near to itself.
        history: slots of events.
        most: most items to return for each.
    """
    seen = np.unique(history)
    rows, columns = (np.asarray(vectors[one], np.float32) for one in (slots, seen))
    cosines = rows @ columns.T
    cosines[slots[:, None] == seen] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
    return [
        [(int(seen[at]), float(row[at])) for at in best if row[at] > -np.inf]
        for row, best in zip(cosines, order, strict=True)
    ]


def map_positions(
    vectors: Float16[np.ndarray, "slot item_width"],
    catalog: Int[np.ndarray, " item"],
    shown: Int[np.ndarray, " point"],
) -> UInt16[np.ndarray, "point 2"]:
    """Returns where items are on a map whose axes have the same scale.

    Args:
        vectors: see `directions`.
        catalog: as for `principal_components`.
        shown: the items to place.
    """
    found = principal_components(vectors, catalog, shown)
    low, high = found.min(axis=0), found.max(axis=0)
    span = float((high - low).max()) or 1.0
    scaled = (found - (low + high) / 2) / span + 0.5
    return np.rint(np.clip(scaled, 0, 1) * _FINEST).astype(np.uint16)


def principal_components(
    vectors: Float16[np.ndarray, "slot item_width"],
    catalog: Int[np.ndarray, " item"],
    shown: Int[np.ndarray, " point"],
) -> Float32[np.ndarray, "point 2"]:
    """Returns the first two principal components of items' directions.

    Args:
        vectors: see `directions`.
        catalog: the items whose mean and principal axes are used.
        shown: the items to return.
    """
    mean, axes = _principal_axes(vectors, catalog)
    found = np.zeros((len(shown), 2), np.float32)
    for at in _chunks(len(shown)):
        found[at] = (np.asarray(vectors[shown[at]], np.float32) - mean) @ axes
    return found


def map_clusters(
    vectors: Float16[np.ndarray, "slot item_width"],
    shown: Int[np.ndarray, " point"],
    most: int,
) -> Int32[np.ndarray, " point"]:
    """Returns a cluster for each item, by k-means of their directions.

    Args:
        vectors: see `directions`.
        shown: the items.
        most: most clusters.
    """
    num = min(most, len(shown))
    sizes = np.array([len(part) for part in np.array_split(shown, num)])
    rows, ones = vectors[shown].astype(np.float32), np.ones(len(shown), np.float32)
    return balanced_kmeans(rows, sizes, ones, seed=0, spherical=True)


def _principal_axes(
    vectors: Float16[np.ndarray, "slot item_width"], catalog: Int[np.ndarray, " item"]
) -> tuple[Float32[np.ndarray, " item_width"], Float32[np.ndarray, "item_width 2"]]:
    """Returns the mean and the two principal axes; their signs are reproducible."""
    width = vectors.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    for at in _chunks(len(catalog)):
        part = np.asarray(vectors[catalog[at]], np.float32)
        total += part.sum(axis=0)
        products += part.T @ part
    mean = total / len(catalog)
    _, found = np.linalg.eigh(products / len(catalog) - np.outer(mean, mean))
    axes = np.zeros((width, 2))
    axes[:, : min(2, width)] = found[:, ::-1][:, :2]
    largest = axes[np.abs(axes).argmax(axis=0), range(2)]
    axes *= np.where(largest < 0, -1, 1)
    return mean.astype(np.float32), axes.astype(np.float32)


def _chunks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, _CHUNK):
        yield slice(start, min(start + _CHUNK, num_rows))
