"""The two levels of the softmax for many targets: log-probabilities and gradients.

Each level is a loop over pieces that fit a cache, so that memory depends on the piece
and not on the catalog or the number of targets. A piece computes its logits once, and
takes log-probabilities and all gradients from them.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eqids.model.item_vectors import joined
from sharding import TableShards

PIECE, LARGE_PIECE = 2**18, 2**24
"""Floats in a piece: on a CPU as many as fit its cache (2**16 to 2**20 are as fast);
more on accelerators, where every step of a loop launches kernels."""


class Targets(NamedTuple):
    """Queries with the items that they predict, for one shard of the tables.

    Attributes:
        hidden: the queries.
        cluster: the target's cluster, counted from the shard's first; the number of
            its clusters if another shard has the target, or if there is none.
        place: the target's place in its cluster.
        weight: factor of its log-probability in the sum that is differentiated.
    """

    hidden: Float[Array, "target item_width"]
    cluster: Int[Array, " target"]
    place: Int[Array, " target"]
    weight: Float[Array, " target"]


class Level(NamedTuple):
    """What one level adds to log P and to the gradients of its weighted sum.

    Attributes:
        log_prob: the log-probability of each target's cluster, or of its item in the
            cluster; 0 for targets of other shards.
        hidden: gradient of the queries.
        table: gradient of the cluster vectors, or of the active clusters' blocks.
        bias: gradient of their biases.
    """

    log_prob: Float[Array, " target"]
    hidden: Float[Array, "target item_width"]
    table: Float[Array, "..."]
    bias: Float[Array, "..."]


def cluster_level(
    shards: TableShards,
    targets: Targets,
    table: Float[Array, "cluster item_width"],
    bias: Float[Array, " cluster"],
    occupied: Bool[Array, " cluster"],
    piece_size: int,
) -> Level:
    """log P(cluster), a softmax over the clusters of all shards.

    Args:
        shards: how the mesh splits queries and clusters.
        targets: all that this shard scores.
        table: this shard's cluster vectors.
        bias: the biases of these clusters.
        occupied: which clusters have an item; the others have probability zero.
        piece_size: floats of a piece.
    """
    num_targets, num_clusters = len(targets.hidden), len(table)
    size = max(1, min(num_targets, piece_size // num_clusters))
    padding = -num_targets % size
    cast = table.astype(targets.hidden.dtype)

    def pieces(x: Array) -> Array:
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:])

    def piece(
        grads: tuple[Array, Array], targets: Targets
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        query = targets.hidden
        logits = _dot("tw,cw->tc", query, cast) + bias
        logits = jnp.where(occupied, logits, -jnp.inf)
        log_prob, errors = _of_clusters(shards, targets, logits)
        cast_errors = errors.astype(query.dtype)
        grads = (
            grads[0] + _dot("tc,tw->cw", cast_errors, query),
            grads[1] + errors.sum(axis=0),
        )
        return grads, (log_prob, _dot("tc,cw->tw", cast_errors, cast))

    zeros = jax.tree.map(
        shards.varying, (jnp.zeros(table.shape), jnp.zeros(bias.shape))
    )
    out: tuple[Array, Array]
    grads, out = jax.lax.scan(piece, zeros, jax.tree.map(pieces, targets))
    log_prob, hidden = (x.reshape(-1, *x.shape[2:])[:num_targets] for x in out)
    return Level(log_prob, hidden, *grads)


def _of_clusters(
    shards: TableShards, targets: Targets, logits: Float[Array, "target cluster"]
) -> tuple[Float[Array, " target"], Float[Array, "target cluster"]]:
    """log P of the targets' clusters, and the gradients of the logits."""
    num_clusters = logits.shape[1]
    top = shards.max_over_blocks(logits.max(axis=1))
    powers = jnp.exp(logits - top[:, None])
    total = shards.sum_over_blocks(powers.sum(axis=1))
    here = targets.cluster[:, None] == jnp.arange(num_clusters)
    own = jnp.sum(jnp.where(here, logits, 0.0), axis=1)
    log_prob = own - top - jnp.log(total)
    log_prob = jnp.where(targets.cluster < num_clusters, log_prob, 0.0)
    # Targets of other shards have gradients here too: this shard's clusters are in
    # their normalizers.
    return log_prob, (here - powers / total[:, None]) * targets.weight[:, None]


class ClusterRows(NamedTuple):
    """Targets sorted by cluster, in rows of one cluster each.

    Attributes:
        order: the index of each sorted target before sorting.
        targets: the sorted targets, then a row of padding.
        start: the first target of each row; a row has at most `length` targets.
        num_rows: the number of rows, without padding.
    """

    order: Int[Array, " target"]
    targets: Targets
    start: Int[Array, " row"]
    num_rows: Int[Array, ""]


def item_level(
    shards: TableShards,
    targets: Targets,
    table: Float[Array, "cluster place learned_width"],
    text: Float[Array, "cluster place text_width"] | None,
    bias: Float[Array, "cluster place"],
    valid: Bool[Array, "cluster place"],
    position: Int[Array, " cluster"],
    num_blocks: int,
    piece_size: int,
) -> Level:
    """log P(item | cluster), which reads the blocks of the targets' clusters only.

    Args:
        shards: how the mesh splits queries and clusters.
        targets: all that this shard scores.
        table: the learned columns of this shard's item vectors.
        text: their text columns, if any, which get no gradient.
        bias: the biases of these items.
        valid: places that hold an item.
        position: the index of each cluster's gradient among the blocks.
        num_blocks: blocks of the gradient.
        piece_size: floats of a piece.
    """
    num_targets, width = targets.hidden.shape
    num_clusters, cluster_size, learned = table.shape
    length = row_length(num_targets, num_clusters)
    at_once = max(1, min(num_targets, piece_size // (cluster_size * (width + length))))
    rows = sorted_rows(targets, num_clusters, length, at_once)
    dtype = targets.hidden.dtype

    def chunk(state: tuple[Array, ...]) -> tuple[Array, ...]:
        step, log_prob, d_hidden, d_table, d_bias = state
        start = jax.lax.dynamic_slice(rows.start, (step * at_once,), (at_once,))
        member = start[:, None] + jnp.arange(length)
        cluster, whole = rows.targets.cluster[start], rows.targets.cluster[member]
        mine = (whole == cluster[:, None]) & (cluster < num_clusters)[:, None]
        at = jnp.minimum(cluster, num_clusters - 1)
        query = rows.targets.hidden[member]
        block = joined(table[at], None if text is None else text[at], dtype)
        logits = _dot("gtw,grw->gtr", query, block) + bias[at][:, None]
        logits = jnp.where(valid[at][:, None], logits, -jnp.inf)
        weight = jnp.where(mine, rows.targets.weight[member], 0.0)
        own, errors = _of_items(logits, rows.targets.place[member], weight)
        cast = errors.astype(dtype)
        out = jnp.where(mine, member, num_targets)
        block_at = jnp.where(cluster < num_clusters, position[at], num_blocks)
        log_prob = log_prob.at[out].set(own, mode="drop")
        d_hidden = d_hidden.at[out].set(_dot("gtr,grw->gtw", cast, block), mode="drop")
        d_table = d_table.at[block_at].add(
            _dot("gtr,gtw->grw", cast, query[..., :learned]), mode="drop"
        )
        d_bias = d_bias.at[block_at].add(errors.sum(axis=1), mode="drop")
        return step + 1, log_prob, d_hidden, d_table, d_bias

    zeros = (
        jnp.zeros(num_targets),
        jnp.zeros((num_targets, width)),
        jnp.zeros((num_blocks, cluster_size, learned)),
        jnp.zeros((num_blocks, cluster_size)),
    )
    state = (jnp.zeros((), jnp.int32), *zeros)
    chunks = -(-rows.num_rows // at_once)
    state = jax.tree.map(shards.varying, state)
    _, log_prob, hidden, *grads = jax.lax.while_loop(
        lambda state: state[0] < chunks, chunk, state
    )
    back = jnp.zeros_like(rows.order).at[rows.order].set(jnp.arange(num_targets))
    return Level(log_prob[back], hidden[back], *grads)


def _of_items(
    logits: Float[Array, "chunk row place"],
    place: Int[Array, "chunk row"],
    weight: Float[Array, "chunk row"],
) -> tuple[Float[Array, "chunk row"], Float[Array, "chunk row place"]]:
    """log P of the items at places of their clusters, and the gradients of logits."""
    top = logits.max(axis=2, keepdims=True)
    top = jnp.where(top > -jnp.inf, top, 0.0)
    powers = jnp.exp(logits - top)
    total = powers.sum(axis=2, keepdims=True)
    here = place[..., None] == jnp.arange(logits.shape[2])
    own = jnp.sum(jnp.where(here, logits, 0.0), axis=2)
    log_prob = own - (top + jnp.log(total))[..., 0]
    return log_prob, (here - powers / total) * weight[..., None]


def row_length(num_targets: int, num_clusters: int) -> int:
    """Returns how many targets share a read of a block: a cluster's average number.

    It is at least 4, because with fewer targets a matrix product becomes vector
    products, and at most 32.
    """
    average = max(1, num_targets // num_clusters)
    return min(32, max(4, 2 ** math.ceil(math.log2(average))))


def sorted_rows(
    targets: Targets, num_clusters: int, length: int, multiple: int
) -> ClusterRows:
    """Sorts targets by cluster and cuts those of each cluster into rows.

    Args:
        targets: in any order; those of cluster `num_clusters` are left out.
        num_clusters: the number of clusters of this shard.
        length: most targets of a row.
        multiple: divides the capacity for rows.
    """
    num_targets = len(targets.cluster)
    order = jnp.argsort(targets.cluster)
    cluster = targets.cluster[order]
    number = jnp.arange(num_targets)
    new = jnp.concatenate([jnp.ones(1, bool), cluster[1:] != cluster[:-1]])
    first = jax.lax.cummax(jnp.where(new, number, 0))
    starts = ((number - first) % length == 0) & (cluster < num_clusters)
    most = num_targets // length + min(num_clusters, num_targets)
    most = -(-most // multiple) * multiple
    (start,) = jnp.nonzero(starts, size=most, fill_value=num_targets)

    def padded(x: Array, value: int) -> Array:
        widths = [(0, length + 1)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x[order], widths, constant_values=value)

    return ClusterRows(
        order=order,
        targets=Targets(
            hidden=padded(targets.hidden, 0),
            cluster=padded(targets.cluster, num_clusters),
            place=padded(targets.place, 0),
            weight=padded(targets.weight, 0),
        ),
        start=start,
        num_rows=starts.sum(),
    )


def _dot(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
