"""Scores of clusters and of their items, on the part of a catalog that a shard holds.

What `eqids.model.search` and `eqids.model.rank` share. A table that is split over a
mesh by its clusters never moves: every shard scores its own clusters for all queries.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sharding import Split, like

_CHUNK_FLOATS = 2**20
"""Logits held at a time (4 MiB, which stays in a cache), whatever the catalog."""


@runtime_checkable
class Head(Protocol):
    """The arrays of a `HierarchicalSoftmax`, or one shard's part of them."""

    @property
    def table(self) -> Float[Array, "cluster place item_width"]: ...
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
    head: Head,
    allowed: Bool[Array, "cluster place"],
    hidden: Float[Array, "batch *more item_width"],
    *rows: Int[Array, "batch ..."],
) -> PyTree[Array]:
    """Returns `function(split, head, allowed, hidden, *rows)`, run by every shard.

    Args:
        function: sees one shard's clusters and rows; its results have the rows'
            leading axis.
        head: the catalog.
        allowed: one bool a place, laid out as the catalog is before it is used.
        hidden: queries.
        rows: arrays with the leading axis of `hidden`, laid out likewise.
    """
    split = Split.of(hidden, head.table)
    blocks = head, _laid_out_as(allowed, head.valid)
    queries = hidden, *(_laid_out_as(x, hidden) for x in rows)
    return split.run(
        lambda blocks, rows: function(split, *blocks, *rows),
        hidden,
        blocks,
        queries,
        "rows",
    )


def _laid_out_as(x: Array, other: Array) -> Array:
    """`x` split along its leading axis as `other` is."""
    sharding = like(other)
    if sharding is None:
        return x
    spec = (*sharding.spec, *[None] * x.ndim)[: x.ndim]
    return jax.sharding.reshard(x, sharding.update(spec=spec))


def cluster_log_probs(
    split: Split, head: Head, query: Float[Array, "query item_width"]
) -> Float[Array, "query cluster"]:
    """Returns log P(cluster) of this shard's clusters; -inf at empty ones."""
    table = head.cluster_table.astype(query.dtype)
    logits = jnp.einsum("qw,cw->qc", query, table, preferred_element_type=jnp.float32)
    occupied = head.valid.any(axis=1)
    logits = jnp.where(occupied, logits + head.cluster_bias, -jnp.inf)
    logits -= split.max_over_blocks(logits.max(axis=1))[:, None]
    total = split.sum_over_blocks(jnp.exp(logits).sum(axis=1))
    return logits - jnp.log(total)[:, None]


def item_logits(
    head: Head,
    first: Int[Array, ""],
    num_clusters: int,
    query: Float[Array, "query item_width"],
) -> Float[Array, "chunk place query"]:
    """Returns the logits inside consecutive clusters; -inf at empty places."""
    table, bias, valid = (
        lax.dynamic_slice_in_dim(x, first, num_clusters)
        for x in (head.table, head.bias, head.valid)
    )
    block = table.astype(query.dtype)
    logits = jnp.einsum("crw,qw->crq", block, query, preferred_element_type=jnp.float32)
    return jnp.where(valid[..., None], logits + bias[..., None], -jnp.inf)


def log_normalizer(
    logits: Float[Array, "chunk place query"],
) -> Float[Array, "chunk query"]:
    """Returns the logsumexp over the items of clusters; 0 where there are none."""
    total = jax.nn.logsumexp(logits, axis=1)
    return jnp.where(total == -jnp.inf, 0.0, total)


def over_chunks(
    step: Callable[[Int[Array, ""], Bool[Array, " chunk"], Carry], Carry],
    head: Head,
    num_queries: int,
    start: Carry,
) -> Carry:
    """Goes through all clusters of this shard in chunks of bounded size.

    Args:
        step: takes a chunk's first cluster, which of its clusters were in no chunk
            before (the last chunk may overlap), and the carry.
        head: the clusters.
        num_queries: queries that a chunk is scored for.
        start: the carry; it has to vary over shards as what `step` returns does.
    """
    num_clusters, cluster_size = head.valid.shape
    most = min(num_clusters, max(1, _CHUNK_FLOATS // (cluster_size * num_queries)))
    num_chunks = -(-num_clusters // most)
    size = -(-num_clusters // num_chunks)

    def body(chunk: Int[Array, ""], carry: Carry) -> Carry:
        first = jnp.minimum(chunk * size, num_clusters - size)
        return step(first, first + jnp.arange(size) >= chunk * size, carry)

    return lax.fori_loop(0, num_chunks, body, start)
