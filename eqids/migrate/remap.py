"""Arrays of a model and its optimizer, brought along as a catalog changes.

What was learned goes where its item or cluster goes: rows of items that move take
the optimizer's moments with them, and a cluster that divides is copied with all that
is its own. A new item starts as the mean of the items that it resembles. The logit
of a cluster that gains or loses items moves by what the logsumexp of its items'
logits gains or loses, for a query of zeros: so mass follows the items, and the
probabilities of all others keep their proportions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from eqids.data.catalog.lineage import Change, Lineage

Arrays = dict[str, np.ndarray]

_TABLES = ("softmax/table", "input_table")
_BIAS = "softmax/bias"
_CLUSTER_BIAS = "softmax/cluster_bias"
BY_CLUSTER = ("softmax/cluster_table", _CLUSTER_BIAS)


def brought(
    arrays: Mapping[str, np.ndarray],
    lineage: Lineage,
    version: int,
    prefix: str = "",
) -> Arrays:
    """Arrays of one version of a catalog as arrays of the present version.

    Args:
        arrays: by their path in the tree. Those whose path ends with that of a
            parameter of items or clusters, and counters of clusters, are changed
            (copies of them); the others are the same.
        lineage: of the catalog.
        version: that of the arrays.
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
    """slot: `[cluster, place, …]`. cluster: `[cluster, …]`. None: of no item."""
    counts = array.dtype.kind in "iu" and array.shape == places[:1]
    if _ends(name, (*_TABLES, _BIAS)) and array.shape[:2] == places:
        return "slot"
    of_clusters = _ends(name, (*_TABLES, _BIAS, *BY_CLUSTER)) or counts
    return "cluster" if of_clusters and array.shape[:1] == places[:1] else None


def _ends(name: str, paths: Sequence[str]) -> bool:
    return any(f"/{name}".endswith(f"/{path}") for path in paths)


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    """A copy with zeros for clusters that were added."""
    out = np.zeros((size, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def _follow(
    by_slot: Arrays,
    by_cluster: Arrays,
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
    _open(by_cluster, prefix, valid, change)
    for array in by_slot.values():
        flat = array.reshape(-1, *array.shape[2:])
        moving = flat[change.left]
        flat[change.left] = flat[change.added] = 0
        flat[change.entered] = moving
    _welcome(tables, bias, resembled, after, change)
    now = _mass(bias, after, affected)
    # A cluster that held nothing, or holds nothing now, keeps its logit.
    both = np.isfinite(mass) & np.isfinite(now)
    cluster_bias[affected[both]] += (now[both] - mass[both]).astype(cluster_bias.dtype)
    return after


def _tables(prefix: str) -> set[str]:
    return {prefix + name for name in _TABLES}


def _open(
    by_cluster: Arrays,
    prefix: str,
    valid: Bool[np.ndarray, "cluster place"],
    change: Change,
) -> None:
    """Gives clusters that get their first items what their parents have.

    One without a parent starts as the mean of all, with the least of all biases.
    """
    known = np.flatnonzero(valid.any(axis=1))
    orphans = change.filled[change.parent < 0]
    divided = change.filled[change.parent >= 0]
    for name, array in by_cluster.items():
        array[divided] = array[change.parent[change.parent >= 0]]
        if len(orphans) and len(known) and name.startswith(prefix + "softmax"):
            least = name.endswith(_CLUSTER_BIAS)
            array[orphans] = array[known].min() if least else array[known].mean(axis=0)


def _welcome(
    tables: Mapping[str, np.ndarray],
    bias: Float[np.ndarray, "cluster place"],
    resembled: Mapping[str, np.ndarray],
    after: Bool[np.ndarray, "later_cluster place"],
    change: Change,
) -> None:
    """Writes the rows of new items: vectors of those that they resemble, or of those
    of their cluster, and biases that give them their share of its use."""
    cluster_size, slots = after.shape[1], change.added
    there = after.copy()
    there.reshape(-1)[slots] = False
    entered, row = np.unique(slots // cluster_size, return_inverse=True)
    alike = change.similar.max(axis=1, keepdims=True, initial=-1) >= 0
    for name, table in tables.items():
        held = there[entered, :, None]
        sums = np.where(held, table[entered], 0).sum(axis=1)
        means = sums / np.maximum(held.sum(axis=1), 1)
        rows = np.where(alike, resembled[name], means[row])
        table.reshape(-1, table.shape[-1])[slots] = rows
    mass = _mass(bias, there, entered)
    mass = np.where(np.isfinite(mass), mass, 0.0)[row]
    bias.reshape(-1)[slots] = mass + np.log(change.share)


def _means(
    table: Float[np.ndarray, "cluster place item_width"],
    similar: Int[np.ndarray, "added near"],
) -> Float[np.ndarray, "added item_width"]:
    """The mean rows of the similar items; zeros where there are none."""
    flat, held = table.reshape(-1, table.shape[-1]), (similar >= 0)[..., None]
    sums = np.where(held, flat[similar], 0).sum(axis=1)
    return sums / np.maximum(held.sum(axis=1), 1)


def _mass(
    bias: Float[np.ndarray, "all_clusters place"],
    valid: Bool[np.ndarray, "cluster place"],
    cluster: Int[np.ndarray, " some"],
) -> Float[np.ndarray, " some"]:
    """The logsumexp of the biases of clusters' items; -inf for none, and for -1."""
    held = valid[cluster] & (cluster >= 0)[:, None]
    logits = np.where(held, bias[cluster].astype(np.float64), -np.inf)
    return np.logaddexp.reduce(logits, axis=1)
