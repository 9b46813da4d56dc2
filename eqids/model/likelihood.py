"""The log-likelihood of targets, differentiable, on a table that may be split.

Its gradient is worked out beside its value (`eqids.model.levels`), and for the item
table it has the shape of a *handle*: the table itself, or, where a batch touches few
clusters, one block for each of those. A handle's values are not read.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eqids.model import levels
from eqids.model.levels import Targets, cluster_level, item_level
from sharding import Split


class ActiveClusters(eqx.Module):
    """The clusters that a batch touches, and zeros that stand for their blocks.

    Gradients with respect to the zeros are those of the tables' blocks, so that no
    gradient of a table's size is ever formed.

    Attributes:
        cluster: each shard's clusters, ascending; the number of all clusters where
            there is room for more.
        table: stands for their item vectors.
        bias: stands for their items' biases.
        rows: stands for the vectors of items that enter, if any do.
    """

    cluster: Int[Array, " touched"]
    table: Float[Array, "touched place item_width"]
    bias: Float[Array, "touched place"]
    rows: Float[Array, "batch seq item_width"] | None = None


class Weights(NamedTuple):
    """What is differentiated, besides queries: two levels of vectors and biases."""

    table: Float[Array, "blocks place item_width"]
    bias: Float[Array, "blocks place"]
    cluster_table: Float[Array, "cluster item_width"]
    cluster_bias: Float[Array, " cluster"]


class Catalog(NamedTuple):
    """What is read and not differentiated."""

    table: Float[Array, "cluster place item_width"]
    bias: Float[Array, "cluster place"]
    valid: Bool[Array, "cluster place"]
    active: Int[Array, " blocks"] | None


class Asked(NamedTuple):
    """Targets, and their weights in the sum."""

    slot: Int[Array, "*batch"]
    weight: Float[Array, "*batch"]


@jax.custom_vjp
def log_likelihood(
    hidden: Float[Array, "*batch item_width"],
    weights: Weights,
    catalog: Catalog,
    asked: Asked,
) -> Float[Array, ""]:
    """Returns the weighted sum of the targets' log-probabilities.

    A target whose cluster has no handle makes the sum NaN.

    Args:
        hidden: queries; the leading axis may be split over the mesh.
        weights: handles of the item tables, and the clusters' vectors and biases.
        catalog: the tables, which may be split over clusters.
        asked: slots, with weight 0 (or a negative slot) where there is none.
    """
    return _forward(hidden, weights, catalog, asked)[0]


def _forward(
    hidden: Array, weights: Weights, catalog: Catalog, asked: Asked
) -> tuple[Array, tuple[Array, Weights]]:
    _, (total, d_hidden, *grads) = _pass(hidden, weights, catalog, asked)
    like = jax.tree.map(lambda g, w: g.astype(w.dtype), Weights(*grads), weights)
    return total, (d_hidden.astype(hidden.dtype), like)


def _backward(
    residuals: tuple[Array, Weights], g: Array
) -> tuple[Array, Weights, None, None]:
    d_hidden, d_weights = jax.tree.map(lambda x: (x * g).astype(x.dtype), residuals)
    return d_hidden, d_weights, None, None


log_likelihood.defvjp(_forward, _backward)


@jax.custom_vjp
def log_probs_of(
    hidden: Float[Array, "*batch item_width"],
    weights: Weights,
    catalog: Catalog,
    slot: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Returns each target's log-probability, 0 where the slot is negative.

    The same numbers as `log_likelihood` sums. Its gradient costs a second pass, for
    the weights of the targets are known only then.
    """
    weight = (slot >= 0).astype(jnp.float32)
    return _pass(hidden, weights, catalog, Asked(slot, weight))[0]


def _forward_of(
    hidden: Array, weights: Weights, catalog: Catalog, slot: Array
) -> tuple[Array, tuple]:
    saved = hidden, weights, catalog, slot
    return log_probs_of(*saved), saved


def _backward_of(saved: tuple, g: Array) -> tuple[Array, Weights, None, None]:
    hidden, weights, catalog, slot = saved
    weight = jnp.where(slot >= 0, g, 0.0)
    return *_forward(hidden, weights, catalog, Asked(slot, weight))[1], None, None


log_probs_of.defvjp(_forward_of, _backward_of)


def _pass(hidden: Array, weights: Weights, catalog: Catalog, asked: Asked) -> tuple:
    """Log-probabilities; then the weighted sum and its gradients, in one pass."""
    split = Split.of(hidden, catalog.table)

    def local(blocks: tuple, rows: tuple) -> tuple:
        sized = partial(_local_pass, split)
        return jax.lax.platform_dependent(
            blocks,
            rows,
            cpu=partial(sized, levels.PIECE),
            default=partial(sized, levels.LARGE_PIECE),
        )

    out = "rows", ("whole", "rows", "blocks", "blocks", "blocks", "blocks")
    blocks, rows = (weights, catalog), (hidden, asked)
    return split.run(local, hidden, blocks, rows, out)


def _local_pass(
    split: Split,
    piece_size: int,
    blocks: tuple[Weights, Catalog],
    rows: tuple[Array, Asked],
) -> tuple:
    (weights, catalog), (hidden, asked) = blocks, rows
    shape, num_blocks = asked.slot.shape, len(weights.table)
    num_clusters = len(catalog.valid)
    targets = _targets(split, hidden, asked, catalog.valid.shape)
    position = _positions(split, catalog.active, num_clusters)
    occupied = catalog.valid.any(axis=1)
    upper = cluster_level(
        split,
        targets,
        weights.cluster_table,
        weights.cluster_bias,
        occupied,
        piece_size,
    )
    lower = item_level(split, targets, *catalog[:3], position, num_blocks, piece_size)
    log_prob, d_hidden = (
        split.give_back(a + b)
        for a, b in zip(upper[:2], lower[:2], strict=True)
    )  # fmt: skip
    here = targets.cluster < num_clusters
    has_handle = position[jnp.where(here, targets.cluster, 0)] < num_blocks
    lost = jnp.any(here & ~has_handle)
    total = jnp.sum((upper.log_prob + lower.log_prob) * targets.weight)
    total = split.sum_over_all(jnp.where(lost, jnp.nan, total))
    grads = (
        split.sum_over_rows(x)
        for x in (lower.table, lower.bias, upper.table, upper.bias)
    )
    return log_prob.reshape(shape), (total, d_hidden.reshape(hidden.shape), *grads)


def _targets(
    split: Split,
    hidden: Array,
    asked: Asked,
    shape: tuple[int, ...],
) -> Targets:
    """All queries that this shard's clusters have to meet, in its own numbers."""
    num_clusters, cluster_size = shape
    query = split.gather(hidden.reshape(-1, hidden.shape[-1]))
    slot = split.gather(asked.slot.reshape(-1))
    weight = split.gather(asked.weight.reshape(-1))
    return Targets(
        hidden=query,
        cluster=split.own(slot // cluster_size, num_clusters),
        place=slot % cluster_size,
        weight=jnp.where(slot >= 0, weight, 0.0),
    )


def _positions(
    split: Split, active: Array | None, num_clusters: int
) -> Int[Array, " cluster"]:
    """Where each of this shard's clusters stands among the handles."""
    if active is None:
        return jnp.arange(num_clusters)
    none = split.varying(jnp.full(num_clusters, len(active)))
    own = split.own(active, num_clusters)
    return none.at[own].set(jnp.arange(len(active)), mode="drop")


def add_rows(
    blocks: Float[Array, "touched place item_width"],
    cluster: Int[Array, " touched"],
    slot: Int[Array, "*batch"],
    rows: Float[Array, "*batch item_width"],
) -> Float[Array, "touched place item_width"]:
    """Returns blocks with a row added at each slot's place.

    Args:
        blocks: may be split over the mesh, as the tables are.
        cluster: the blocks', as in `Touched`.
        slot: where each row goes; nowhere if it is negative.
        rows: split over the mesh as the slots are.
    """
    split, cluster_size = Split.of(slot, blocks), blocks.shape[1]

    def local(held: tuple[Array, Array], here: tuple[Array, Array]) -> Array:
        blocks, cluster = held
        slot = split.gather(here[0].reshape(-1))
        rows = split.gather(here[1].reshape(-1, here[1].shape[-1]))
        at = jnp.searchsorted(cluster, slot // cluster_size)
        known = (slot >= 0) & (
            cluster[jnp.minimum(at, len(cluster) - 1)] == slot // cluster_size
        )
        at = jnp.where(known, at, len(cluster))
        if split.elsewhere:
            added = (
                jnp.zeros_like(blocks)
                .at[at, slot % cluster_size]
                .add(rows, mode="drop")
            )
            return blocks + split.sum_over_rows(added)
        return blocks.at[at, slot % cluster_size].add(rows, mode="drop")

    return split.run(local, slot, (blocks, cluster), (slot, rows), "blocks")


def active_clusters(
    slot: Int[Array, "*batch"], num_clusters: int, cluster_size: int, capacity: int
) -> Int[Array, " touched"]:
    """Returns the distinct clusters of slots, ascending, filled with `num_clusters`.

    Args:
        slot: negative ones are left out.
        num_clusters: how many there are.
        cluster_size: places in one.
        capacity: length of the result; more clusters than that are cut off.
    """
    cluster = jnp.where(slot < 0, num_clusters, slot // cluster_size)
    marked = jnp.zeros(num_clusters, bool).at[cluster].set(True, mode="drop")
    (found,) = jnp.nonzero(marked, size=capacity, fill_value=num_clusters)
    return found
