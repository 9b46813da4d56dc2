"""Remaps the arrays of a model and its optimizer as a catalog changes.

The rows of an item follow the item to its new slot, in tables and in the optimizer's
moments. A cluster that splits off copies the rows of its parent. A new item starts as
the mean of its similar items. The logit of a cluster that gains or loses items changes
by the change of the logsumexp of its items' logits, for a query of zeros: probability
mass follows the items, and all other items keep their relative probabilities.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from eqids.data.catalog.lineage import Change, Lineage

_TABLES = ("softmax/table", "input_table")
_TEXT = "softmax/text"
"""Text columns; those of new items are zeros here."""
_BIAS = "softmax/bias"
_CLUSTER_BIAS = "softmax/cluster_bias"
_BY_CLUSTER = ("softmax/cluster_table", _CLUSTER_BIAS)


def remap_arrays(
    arrays: Mapping[str, np.ndarray],
    lineage: Lineage,
    version: int,
    prefix: str = "",
) -> dict[str, np.ndarray]:
    """Returns arrays of one version of a catalog as arrays of the present version.

    Args:
        arrays: by their path in the tree. Arrays whose path ends with that of a
            parameter of items or clusters are copied and changed, and so are counters
            of clusters; the others are returned as they are.
        lineage: of the catalog.
        version: of the arrays.
        prefix: of the parameters' paths; other arrays are the optimizer's.
    """
    valid = lineage.valid_at(version)
    size = len(lineage.valid_at(lineage.version))
    kinds = {name: _kind(name, array, valid.shape) for name, array in arrays.items()}
    out = {n: _longer(x, size) if kinds[n] else x for n, x in arrays.items()}
    by_slot = {name: out[name] for name, kind in kinds.items() if kind == "slot"}
    by_cluster = {name: out[name] for name, kind in kinds.items() if kind == "cluster"}
    for change in lineage.changes[version - 1 :]:
        valid = _follow(by_slot, by_cluster, prefix, valid, change)
    return out


def _kind(name: str, array: np.ndarray, places: tuple[int, ...]) -> str | None:
    """Returns slot for `[cluster, place, …]`, cluster for `[cluster, …]`, else None."""
    counts = array.dtype.kind in "iu" and array.shape == places[:1]
    if _ends(name, (*_TABLES, _TEXT, _BIAS)) and array.shape[:2] == places:
        return "slot"
    of_clusters = _ends(name, (*_TABLES, _BIAS, *_BY_CLUSTER)) or counts
    return "cluster" if of_clusters and array.shape[:1] == places[:1] else None


def _ends(name: str, paths: Sequence[str]) -> bool:
    return any(f"/{name}".endswith(f"/{path}") for path in paths)


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    """Returns a copy with rows of zeros for clusters that were added."""
    out = np.zeros((size, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def _follow(
    by_slot: dict[str, np.ndarray],
    by_cluster: dict[str, np.ndarray],
    prefix: str,
    valid: Bool[np.ndarray, "cluster place"],
    change: Change,
) -> Bool[np.ndarray, "later_cluster place"]:
    """Changes arrays in place; returns which places are valid afterwards."""
    after, cluster_size = change.replay(valid), valid.shape[1]
    bias, cluster_bias = by_slot[prefix + _BIAS], by_cluster[prefix + _CLUSTER_BIAS]
    tables = {name: by_slot[name] for name in by_slot.keys() & _tables(prefix)}
    affected = change.affected(cluster_size)
    source = np.arange(change.num_clusters)
    source[change.filled] = change.parent
    mass = _mass(bias, valid, source[affected])
    resembled = {name: _means(table, change.similar) for name, table in tables.items()}
    _fill_clusters(by_cluster, prefix, valid, change)
    for array in by_slot.values():
        flat = array.reshape(-1, *array.shape[2:])
        rows = flat[change.left]
        flat[change.left] = flat[change.added] = 0
        flat[change.entered] = rows
    _write_added(tables, bias, resembled, after, change)
    now = _mass(bias, after, affected)
    # A cluster without items, before or after, keeps its logit.
    both = np.isfinite(mass) & np.isfinite(now)
    cluster_bias[affected[both]] += (now[both] - mass[both]).astype(cluster_bias.dtype)
    return after


def _tables(prefix: str) -> set[str]:
    return {prefix + name for name in _TABLES}


def _fill_clusters(
    by_cluster: Mapping[str, np.ndarray],
    prefix: str,
    valid: Bool[np.ndarray, "cluster place"],
    change: Change,
) -> None:
    """Copies the rows of parents to the clusters that split off from them.

    A cluster without a parent gets the mean vector of all clusters that hold items,
    and the smallest of their biases.
    """
    used = np.flatnonzero(valid.any(axis=1))
    orphans = change.filled[change.parent < 0]
    divided = change.filled[change.parent >= 0]
    for name, array in by_cluster.items():
        array[divided] = array[change.parent[change.parent >= 0]]
        if len(orphans) and len(used) and name.startswith(prefix + "softmax"):
            is_bias = name.endswith(_CLUSTER_BIAS)
            rows = array[used]
            array[orphans] = rows.min() if is_bias else rows.mean(axis=0)


def _write_added(
    tables: Mapping[str, np.ndarray],
    bias: Float[np.ndarray, "cluster place"],
    resembled: Mapping[str, np.ndarray],
    after: Bool[np.ndarray, "later_cluster place"],
    change: Change,
) -> None:
    """Writes the rows of new items.

    Their vector is the mean of their similar items, or else of their cluster's items;
    their bias gives them their share of the cluster's use.
    """
    cluster_size, slots = after.shape[1], change.added
    others = after.copy()
    others.reshape(-1)[slots] = False
    entered, row = np.unique(slots // cluster_size, return_inverse=True)
    has_similar = change.similar.max(axis=1, keepdims=True, initial=-1) >= 0
    for name, table in tables.items():
        held = others[entered, :, None]
        sums = np.where(held, table[entered], 0).sum(axis=1)
        means = sums / np.maximum(held.sum(axis=1), 1)
        rows = np.where(has_similar, resembled[name], means[row])
        table.reshape(-1, table.shape[-1])[slots] = rows
    mass = _mass(bias, others, entered)
    mass = np.where(np.isfinite(mass), mass, 0.0)[row]
    bias.reshape(-1)[slots] = mass + np.log(change.share)


def _means(
    table: Float[np.ndarray, "cluster place item_width"],
    similar: Int[np.ndarray, "added near"],
) -> Float[np.ndarray, "added item_width"]:
    """Returns the mean rows of the similar items; zeros for items without any."""
    flat, held = table.reshape(-1, table.shape[-1]), (similar >= 0)[..., None]
    sums = np.where(held, flat[similar], 0).sum(axis=1)
    return sums / np.maximum(held.sum(axis=1), 1)


def _mass(
    bias: Float[np.ndarray, "all_clusters place"],
    valid: Bool[np.ndarray, "cluster place"],
    cluster: Int[np.ndarray, " some"],
) -> Float[np.ndarray, " some"]:
    """Returns the logsumexp of the biases of each cluster's items.

    It is -inf for a cluster without items, and for cluster -1.
    """
    held = valid[cluster] & (cluster >= 0)[:, None]
    logits = np.where(held, bias[cluster].astype(np.float64), -np.inf)
    return np.logaddexp.reduce(logits, axis=1)
