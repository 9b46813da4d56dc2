"""The differentiable log-likelihood of targets; a mesh may split the item tables.

`eqids.model.levels` computes gradients together with values. The gradient of an item
table has the shape of its *handle*: the table itself, or, if a batch uses few clusters,
one block for each of these. Nothing reads a handle's values.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import cluster_of, place_of
from eqids.model import levels
from eqids.model.levels import Targets, cluster_level, item_level
from sharding import TableShards


class ActiveClusters(eqx.Module):
    """The clusters that a batch uses, and zeros in place of their blocks.

    Gradients with respect to the zeros are the gradients of the tables' blocks, so no
    gradient has the size of a table.

    Attributes:
        cluster: each shard's clusters, ascending, padded with the number of clusters.
        table: zeros in place of the learned columns of their item vectors.
        bias: zeros in place of their items' biases.
        rows: the same for each input item; None without input.
    """

    cluster: Int[Array, " active"]
    table: Float[Array, "active place learned_width"]
    bias: Float[Array, "active place"]
    rows: Float[Array, "batch seq learned_width"] | None = None


class Weights(NamedTuple):
    """Vectors and biases of both levels, differentiated as the queries are."""

    table: Float[Array, "blocks place learned_width"]
    bias: Float[Array, "blocks place"]
    cluster_table: Float[Array, "cluster item_width"]
    cluster_bias: Float[Array, " cluster"]


class ItemArrays(NamedTuple):
    """Arrays that are read and not differentiated."""

    table: Float[Array, "cluster place learned_width"]
    text: Float[Array, "cluster place text_width"] | None
    bias: Float[Array, "cluster place"]
    valid: Bool[Array, "cluster place"]
    active: Int[Array, " blocks"] | None


class WeightedSlots(NamedTuple):
    """Targets, and their weights in the sum."""

    slot: Int[Array, "*batch"]
    weight: Float[Array, "*batch"]


_Blocks = tuple[Weights, ItemArrays]
"""Arrays whose leading axis is that of clusters or of their handles."""
_Rows = tuple[Array, WeightedSlots]
"""Queries and their targets."""
_Saved = tuple[Array, Weights, ItemArrays, Array]
"""The arguments of `log_probs_of`."""
_Found = tuple[Array, tuple[Array, ...]]
"""Log-probabilities; their weighted sum, and its gradients (queries, weights)."""


@jax.custom_vjp
def log_likelihood(
    hidden: Float[Array, "*batch item_width"],
    weights: Weights,
    items: ItemArrays,
    weighted: WeightedSlots,
) -> Float[Array, ""]:
    """Returns the weighted sum of the targets' log-probabilities.

    The sum is NaN if the cluster of a target has no handle.

    Args:
        hidden: queries; the leading axis may be split over the mesh.
        weights: handles of the item tables, and the clusters' vectors and biases.
        items: the tables, which may be split over clusters.
        weighted: targets; weight 0 or a negative slot means none.
    """
    return _forward(hidden, weights, items, weighted)[0]


def _forward(
    hidden: Array, weights: Weights, items: ItemArrays, weighted: WeightedSlots
) -> tuple[Array, tuple[Array, Weights]]:
    _, (total, d_hidden, *grads) = _pass(hidden, weights, items, weighted)
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
    items: ItemArrays,
    slot: Int[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Returns each target's log-probability, 0 where the slot is negative.

    These are the numbers that `log_likelihood` sums. The gradient costs a second pass,
    because the weights of the targets are known only in the backward pass.
    """
    weight = (slot >= 0).astype(jnp.float32)
    return _pass(hidden, weights, items, WeightedSlots(slot, weight))[0]


def _forward_of(
    hidden: Array, weights: Weights, items: ItemArrays, slot: Array
) -> tuple[Array, _Saved]:
    saved = hidden, weights, items, slot
    return log_probs_of(*saved), saved


def _backward_of(saved: _Saved, g: Array) -> tuple[Array, Weights, None, None]:
    hidden, weights, items, slot = saved
    weight = jnp.where(slot >= 0, g, 0.0)
    return *_forward(hidden, weights, items, WeightedSlots(slot, weight))[1], None, None


log_probs_of.defvjp(_forward_of, _backward_of)


def _pass(
    hidden: Array, weights: Weights, items: ItemArrays, weighted: WeightedSlots
) -> _Found:
    """Log-probabilities, their weighted sum and its gradients, in one pass."""
    shards = TableShards.of(hidden, items.table)

    def local(blocks: _Blocks, rows: _Rows) -> _Found:
        sized = partial(_local_pass, shards)
        return jax.lax.platform_dependent(
            blocks,
            rows,
            cpu=partial(sized, levels.PIECE),
            default=partial(sized, levels.LARGE_PIECE),
        )

    out = "rows", ("whole", "rows", "blocks", "blocks", "blocks", "blocks")
    blocks, rows = (weights, items), (hidden, weighted)
    return shards.run(local, hidden, blocks, rows, out)


def _local_pass(
    shards: TableShards,
    piece_size: int,
    blocks: _Blocks,
    rows: _Rows,
) -> _Found:
    (weights, items), (hidden, weighted) = blocks, rows
    shape, num_blocks = weighted.slot.shape, len(weights.table)
    num_clusters = len(items.valid)
    targets = _targets(shards, hidden, weighted, items.valid.shape)
    position = _positions(shards, items.active, num_clusters)
    occupied = items.valid.any(axis=1)
    upper = cluster_level(
        shards,
        targets,
        weights.cluster_table,
        weights.cluster_bias,
        occupied,
        piece_size,
    )
    lower = item_level(shards, targets, *items[:4], position, num_blocks, piece_size)
    log_prob, d_hidden = (
        shards.give_back(a + b)
        for a, b in zip(upper[:2], lower[:2], strict=True)
    )  # fmt: skip
    here = targets.cluster < num_clusters
    has_handle = position[jnp.where(here, targets.cluster, 0)] < num_blocks
    lost = jnp.any(here & ~has_handle)
    total = jnp.sum((upper.log_prob + lower.log_prob) * targets.weight)
    total = shards.sum_over_all(jnp.where(lost, jnp.nan, total))
    grads = (
        shards.sum_over_rows(x)
        for x in (lower.table, lower.bias, upper.table, upper.bias)
    )
    return log_prob.reshape(shape), (total, d_hidden.reshape(hidden.shape), *grads)


def _targets(
    shards: TableShards,
    hidden: Array,
    weighted: WeightedSlots,
    shape: tuple[int, ...],
) -> Targets:
    """The queries that this shard scores; clusters count from the shard's first."""
    num_clusters, cluster_size = shape
    query = shards.gather(hidden.reshape(-1, hidden.shape[-1]))
    slot = shards.gather(weighted.slot.reshape(-1))
    weight = shards.gather(weighted.weight.reshape(-1))
    return Targets(
        hidden=query,
        cluster=shards.own(cluster_of(slot, cluster_size), num_clusters),
        place=place_of(slot, cluster_size),
        weight=jnp.where(slot >= 0, weight, 0.0),
    )


def _positions(
    shards: TableShards, active: Array | None, num_clusters: int
) -> Int[Array, " cluster"]:
    """The index of each of this shard's clusters among the handles."""
    if active is None:
        return jnp.arange(num_clusters)
    none = shards.varying(jnp.full(num_clusters, len(active)))
    own = shards.own(active, num_clusters)
    return none.at[own].set(jnp.arange(len(active)), mode="drop")


def add_rows(
    blocks: Float[Array, "active place learned_width"],
    cluster: Int[Array, " active"],
    slot: Int[Array, "*batch"],
    rows: Float[Array, "*batch learned_width"],
) -> Float[Array, "active place learned_width"]:
    """Returns blocks with a row added at each slot's place.

    Args:
        blocks: split over the mesh as the tables are.
        cluster: the cluster of each block, as in `ActiveClusters`.
        slot: where to add each row; a negative slot drops it.
        rows: split over the mesh as the slots are.
    """
    shards, cluster_size = TableShards.of(slot, blocks), blocks.shape[1]

    def local(held: tuple[Array, Array], here: tuple[Array, Array]) -> Array:
        blocks, cluster = held
        slot = shards.gather(here[0].reshape(-1))
        rows = shards.gather(here[1].reshape(-1, here[1].shape[-1]))
        own, place = cluster_of(slot, cluster_size), place_of(slot, cluster_size)
        at = jnp.searchsorted(cluster, own)
        found = (slot >= 0) & (cluster[jnp.minimum(at, len(cluster) - 1)] == own)
        at = jnp.where(found, at, len(cluster))
        if shards.elsewhere:
            added = jnp.zeros_like(blocks).at[at, place].add(rows, mode="drop")
            return blocks + shards.sum_over_rows(added)
        return blocks.at[at, place].add(rows, mode="drop")

    return shards.run(local, slot, (blocks, cluster), (slot, rows), "blocks")


def active_clusters(
    slot: Int[Array, "*batch"], num_clusters: int, cluster_size: int, capacity: int
) -> Int[Array, " active"]:
    """Returns the distinct clusters of slots, ascending, padded with `num_clusters`.

    Args:
        slot: negative slots are ignored.
        num_clusters: the number of clusters of the catalog.
        cluster_size: places of a cluster.
        capacity: length of the result; the last clusters are cut off if it is short.
    """
    cluster = jnp.where(slot < 0, num_clusters, cluster_of(slot, cluster_size))
    marked = jnp.zeros(num_clusters, bool).at[cluster].set(True, mode="drop")
    (found,) = jnp.nonzero(marked, size=capacity, fill_value=num_clusters)
    return found
