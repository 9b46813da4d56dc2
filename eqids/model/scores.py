"""Scores of clusters and of their items, on the part of a catalog that a shard holds.

Search and ranks use them. A table whose clusters are split over a mesh is never
gathered: every shard scores its own clusters for all queries.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqids.config.slots import cluster_of, place_of, slot_of
from eqids.model.item_vectors import joined
from sharding import TableShards, like

_CHUNK_FLOATS = 2**20
"""Logits in memory at a time, for catalogs of any size; 4 MiB stay in a cache."""


@runtime_checkable
class SoftmaxArrays(Protocol):
    """The arrays of a `HierarchicalSoftmax`, or one shard's part of them."""

    @property
    def table(self) -> Float[Array, "cluster place learned_width"]: ...
    @property
    def text(self) -> Float[Array, "cluster place text_width"] | None: ...
    @property
    def bias(self) -> Float[Array, "cluster place"]: ...
    @property
    def cluster_table(self) -> Float[Array, "cluster item_width"]: ...
    @property
    def cluster_bias(self) -> Float[Array, " cluster"]: ...
    @property
    def valid(self) -> Bool[Array, "cluster place"]: ...


Carry = TypeVar("Carry")


def on_shards(
    function: Callable[..., PyTree[Array]],
    softmax: SoftmaxArrays,
    hidden: Float[Array, "batch *more item_width"],
    *rows: PyTree[Array],
    masks: Bool[Array, "mask cluster place"] | None = None,
) -> PyTree[Array]:
    """Returns `function(shards, softmax, hidden, *rows)`, run by every shard.

    Args:
        function: takes one shard's clusters and rows; its results have the leading
            axis of the rows.
        softmax: the hierarchical softmax.
        hidden: queries.
        rows: arrays, or trees of arrays, with the leading axis of `hidden`; they are
            laid out as it is.
        masks: the function receives all of them by this name, for its own clusters.
    """
    shards = TableShards.of(hidden, softmax.table)
    queries = hidden, *jax.tree.map(lambda x: _laid_out_as(x, hidden), rows)
    if masks is None:
        return shards.run(
            lambda blocks, rows: function(shards, blocks, *rows),
            hidden, softmax, queries, "rows",
        )  # fmt: skip
    return shards.run(
        lambda blocks, rows, masks: function(shards, blocks, *rows, masks=masks),
        hidden, softmax, queries, "rows", _laid_out_as(masks, softmax.valid, axis=1),
    )  # fmt: skip


def _laid_out_as(x: Array, other: Array, axis: int = 0) -> Array:
    """`x` split along one axis as `other` is along its leading one."""
    sharding = like(other)
    if sharding is None:
        return x
    spec = [None] * axis, sharding.spec[:1], [None] * (x.ndim - axis - 1)
    return jax.sharding.reshard(x, sharding.update(spec=sum(map(tuple, spec), ())))


def cluster_log_probs(
    shards: TableShards,
    softmax: SoftmaxArrays,
    query: Float[Array, "*queries item_width"],
) -> Float[Array, "*queries cluster"]:
    """Returns the float32 log P(cluster) of a shard's clusters; -inf for empty ones."""
    table = softmax.cluster_table.astype(query.dtype)
    logits = jnp.einsum(
        "...w,cw->...c", query, table, preferred_element_type=jnp.float32
    )
    occupied = softmax.valid.any(axis=1)
    logits = jnp.where(occupied, logits + softmax.cluster_bias, -jnp.inf)
    logits -= shards.max_over_blocks(logits.max(axis=-1))[..., None]
    total = shards.sum_over_blocks(jnp.exp(logits).sum(axis=-1))
    return logits - jnp.log(total)[..., None]


def scores_of_slots(
    softmax: SoftmaxArrays,
    hidden: Float[Array, "query item_width"],
    slot: Int[Array, "query group some"],
) -> Float[Array, "query group some"]:
    """Returns log P(cluster) plus the logit of some items, in float32.

    This is log P(item) but for the normalizer of the item's cluster.

    Args:
        softmax: the hierarchical softmax.
        hidden: queries.
        slot: slots of each query; vectors of one group are in memory at a time.
    """
    return on_shards(_local_scores, softmax, hidden, slot)


def _local_scores(
    shards: TableShards,
    softmax: SoftmaxArrays,
    hidden: Float[Array, "query item_width"],
    slot: Int[Array, "query group some"],
) -> Float[Array, "query group some"]:
    """One shard's part: the scores of its own items, for the queries of all shards."""
    num_clusters, size = softmax.valid.shape
    query = shards.gather(hidden)
    log_p = cluster_log_probs(shards, softmax, query)
    slot = shards.gather(slot) - slot_of(shards.first_block(num_clusters), 0, size)

    def scores(slot: Int[Array, "query some"]) -> Float[Array, "query some"]:
        here = (slot >= 0) & (slot < num_clusters * size)
        own = jnp.where(here, slot, 0)
        at = cluster_of(own, size), place_of(own, size)
        text = None if softmax.text is None else softmax.text[at]
        vectors = joined(softmax.table[at], text, query.dtype)
        logits = jnp.einsum(
            "qsw,qw->qs", vectors, query, preferred_element_type=jnp.float32
        )
        score = jnp.take_along_axis(log_p, at[0], axis=1) + logits + softmax.bias[at]
        return jnp.where(here, score, 0.0)

    found = lax.map(scores, jnp.moveaxis(slot, 1, 0))
    return shards.give_back(jnp.moveaxis(found, 0, 1))


def log_probs_of_slots(
    softmax: SoftmaxArrays,
    hidden: Float[Array, "query item_width"],
    slot: Int[Array, "query some"],
) -> Float[Array, "query some"]:
    """Returns log P of some items of each query, in float32; -inf for empty places.

    The blocks of one item's cluster for each query are in memory at a time.
    """
    return on_shards(_local_log_probs, softmax, hidden, slot)


def _local_log_probs(
    shards: TableShards,
    softmax: SoftmaxArrays,
    hidden: Float[Array, "query item_width"],
    slot: Int[Array, "query some"],
) -> Float[Array, "query some"]:
    """One shard's part, as in `_local_scores`."""
    num_clusters, size = softmax.valid.shape
    query = shards.gather(hidden)
    log_p = cluster_log_probs(shards, softmax, query)
    slot = shards.gather(slot) - slot_of(shards.first_block(num_clusters), 0, size)

    def log_prob(slot: Int[Array, " query"]) -> Float[Array, " query"]:
        here = (slot >= 0) & (slot < num_clusters * size)
        own = jnp.where(here, slot, 0)
        cluster, place = cluster_of(own, size), place_of(own, size)
        text = None if softmax.text is None else softmax.text[cluster]
        block = joined(softmax.table[cluster], text, query.dtype)
        logits = jnp.einsum(
            "qrw,qw->qr", block, query, preferred_element_type=jnp.float32
        )
        valid = softmax.valid[cluster]
        logits = jnp.where(valid, logits + softmax.bias[cluster], -jnp.inf)
        row = jnp.arange(len(slot))
        found = log_p[row, cluster] + logits[row, place]
        found -= jax.nn.logsumexp(logits, axis=1)
        return jnp.where(here, jnp.where(valid[row, place], found, -jnp.inf), 0.0)

    return shards.give_back(lax.map(log_prob, slot.T).T)


def item_logits(
    softmax: SoftmaxArrays,
    first: Int[Array, ""],
    num_clusters: int,
    query: Float[Array, "query item_width"],
) -> Float[Array, "chunk place query"]:
    """Returns the float32 logits of items of consecutive clusters; -inf if invalid."""
    cut = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=num_clusters)
    table, bias, valid = map(cut, (softmax.table, softmax.bias, softmax.valid))
    text = None if softmax.text is None else cut(softmax.text)
    block = joined(table, text, query.dtype)
    logits = jnp.einsum("crw,qw->crq", block, query, preferred_element_type=jnp.float32)
    return jnp.where(valid[..., None], logits + bias[..., None], -jnp.inf)


def log_normalizer(
    logits: Float[Array, "chunk place query"],
) -> Float[Array, "chunk query"]:
    """Returns the logsumexp over the items of each cluster; 0 for an empty one."""
    total = jax.nn.logsumexp(logits, axis=1)
    return jnp.where(total == -jnp.inf, 0.0, total)


def over_chunks(
    step: Callable[[Int[Array, ""], Bool[Array, " chunk"], Carry], Carry],
    softmax: SoftmaxArrays,
    num_queries: int,
    start: Carry,
) -> Carry:
    """Runs a step for each chunk of this shard's clusters; returns the last carry.

    Args:
        step: takes a chunk's first cluster, a bool for each of its clusters (False if
            the chunk before had it: the last two may overlap), and the carry.
        softmax: the softmax whose clusters are scored.
        num_queries: number of queries for which a chunk is scored; it bounds the
            chunk's size.
        start: the first carry; it has to vary over shards as the results of `step` do.
    """
    num_clusters, cluster_size = softmax.valid.shape
    most = min(num_clusters, max(1, _CHUNK_FLOATS // (cluster_size * num_queries)))
    num_chunks = -(-num_clusters // most)
    size = -(-num_clusters // num_chunks)

    def body(chunk: Int[Array, ""], carry: Carry) -> Carry:
        first = jnp.minimum(chunk * size, num_clusters - size)
        return step(first, first + jnp.arange(size) >= chunk * size, carry)

    return lax.fori_loop(0, num_chunks, body, start)
