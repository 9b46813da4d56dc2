"""The exact k most probable items, without scoring the catalog.

A search visits clusters best first (`eqids.model.best_first`). That is slow if
probabilities are flat; then the search scores all items, in memory that does not grow
with the catalog. If a mesh splits the clusters, every shard searches its own, and the
shards exchange k candidates for each query.
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import slot_of
from eqids.model.best_first import (
    BestFirst,
    SearchQueries,
    SearchState,
    best_of,
    in_step,
    in_turn,
    worth,
)
from eqids.model.mixture import Mixture
from eqids.model.scores import SoftmaxArrays, cluster_log_probs, on_shards
from sharding import TableShards

_SMALL = 2**16
"""A catalog of at most this many slots is always scored whole."""
_PATIENCE = 16
"""A search ends if it needs more than one in this many clusters: reading more of them
one by one takes longer than scoring all items for many queries at once."""
_TOGETHER = 32
"""Queries for which a CPU scores all items at a time."""
_TOGETHER_ACCELERATED = 256
"""The same for other devices."""

SearchMethod = Literal["auto", "search", "full"]


class TopK(NamedTuple):
    """The most probable items of every query, best first; equal ones by slot.

    Attributes:
        slots: -1 where fewer than k items may be returned.
        log_probs: float32, padded with -inf.
        visited: number of clusters whose items were scored.
        exact: whether these are proven to be the most probable items; always True
            without `max_clusters`.
    """

    slots: Int[Array, "*batch k"]
    log_probs: Float[Array, "*batch k"]
    visited: Int[Array, "*batch"]
    exact: Bool[Array, "*batch"]


def top_k(
    softmax: SoftmaxArrays,
    hidden: Float[Array, "*batch item_width"],
    k: int,
    *,
    exclude: Int[Array, "*batch n"] | None = None,
    allowed: Bool[Array, "cluster place"]
    | Bool[Array, "*batch cluster place"]
    | None = None,
    max_clusters: int | None = None,
    method: SearchMethod = "auto",
    mixture: Mixture | None = None,
) -> TopK:
    """Returns the k most probable items, exactly, with their log-probabilities.

    Normalizers include items that may not be returned. The mesh does not change the
    result.

    Args:
        softmax: the hierarchical softmax.
        hidden: queries; the leading axis may be split over the mesh.
        k: number of items; it may exceed the number of items in the catalog.
        exclude: slots not to return, per query; numbers that are no slots are padding.
        allowed: places that may be returned, to any query or to each; by default all.
        max_clusters: most clusters to visit for a query, shared evenly by the shards,
            of which each visits at least one. The "full" method ignores it.
        method: visit clusters ("search"), score all items ("full"), or choose by the
            size of the catalog and the device ("auto").
        mixture: what counts add to the softmax, or none.
    """
    if hidden.ndim == 1:
        rest = None if exclude is None else exclude[None]
        mixed = jax.tree.map(lambda x: x[None], mixture)
        found = top_k(
            softmax, hidden[None], k, exclude=rest, allowed=allowed,
            max_clusters=max_clusters, method=method, mixture=mixed,
        )  # fmt: skip
        return TopK(*(x[0] for x in found))
    if method == "auto" and softmax.valid.size <= _SMALL and max_clusters is None:
        method = "full"
    if exclude is None:
        exclude = jnp.zeros((*hidden.shape[:-1], 0), jnp.int32)
    allowed = softmax.valid if allowed is None else allowed
    if allowed.ndim == 2:
        masks, mask = allowed[None], jnp.zeros(hidden.shape[:-1], jnp.int32)
    else:
        masks = allowed.reshape(-1, *softmax.valid.shape)
        mask = jnp.arange(len(masks), dtype=jnp.int32).reshape(hidden.shape[:-1])
    local = partial(_local_top_k, k=k, max_clusters=max_clusters, method=method)
    return on_shards(local, softmax, hidden, exclude, mask, mixture, masks=masks)


def _local_top_k(
    shards: TableShards,
    softmax: SoftmaxArrays,
    hidden: Float[Array, "*batch item_width"],
    exclude: Int[Array, "*batch n"],
    mask: Int[Array, "*batch"],
    mixture: Mixture | None,
    *,
    masks: Bool[Array, "mask cluster place"],
    k: int,
    max_clusters: int | None,
    method: SearchMethod,
) -> TopK:
    """One shard's part: searches its clusters, then merges what all shards found."""
    num_clusters, cluster_size = softmax.valid.shape
    first_slot = slot_of(shards.first_block(num_clusters), 0, cluster_size)
    batch = hidden.shape[:-1]

    def flat(x: Array) -> Array:
        return x.reshape(math.prod(batch), *x.shape[len(batch) :])

    query, slots, mask, raises = jax.tree.map(
        lambda x: shards.gather(flat(x)), (hidden, exclude, mask, mixture)
    )
    if raises is not None:
        raises = raises.counted_from(first_slot)
    log_p = cluster_log_probs(shards, softmax, query)
    floor = jnp.full_like(log_p[:, 0], -jnp.inf)
    queries = SearchQueries(query, slots - first_slot, mask, log_p, floor, raises)
    clusters = BestFirst(softmax, masks, k)
    start = clusters.start(queries, queries.bounds(cluster_size))
    search = partial(_searched, shards, clusters, max_clusters=max_clusters)
    whole = partial(clusters.finished, each=in_turn, together=_TOGETHER)
    whole_accelerated = partial(
        clusters.finished, each=in_step, together=_TOGETHER_ACCELERATED
    )
    way = {"search": search, "full": whole, "auto": search}[method]
    default = search if method == "search" else whole_accelerated
    state = lax.platform_dependent(queries, start, cpu=way, default=default)
    found = _merged(shards, state, first_slot)
    if mixture is not None:
        log_probs = found.log_probs + flat(mixture.log_rest)[:, None]
        found = found._replace(log_probs=log_probs)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)


def _searched(
    shards: TableShards,
    clusters: BestFirst,
    queries: SearchQueries,
    state: SearchState,
    *,
    max_clusters: int | None,
) -> SearchState:
    """Visits clusters best first; scores all items if that takes too many visits."""
    num_clusters = len(clusters.softmax.valid)
    if shards.blocks:
        # The best items of every shard's first cluster raise the floor, so that all
        # shards visit fewer clusters.
        first = partial(clusters.expand, most=1, patience=num_clusters)
        state = in_turn(first, queries, state)
        scores = lax.all_gather(state.scores, shards.blocks, axis=1, tiled=True)
        kth = lax.top_k(scores, clusters.k)[0][:, -1]
        queries = queries._replace(floor=kth)
    if max_clusters is not None:
        most = -(-max_clusters // lax.psum(1, shards.blocks))
        limited = partial(clusters.expand, most=most, patience=num_clusters)
        return in_turn(limited, queries, state)
    patience = num_clusters // _PATIENCE
    patient = partial(clusters.expand, most=num_clusters, patience=patience)
    state = in_turn(patient, queries, state)
    return clusters.finished(queries, state, each=in_turn, together=_TOGETHER)


def _merged(
    shards: TableShards, state: SearchState, first_slot: Int[Array, ""] | int
) -> TopK:
    """Merges the best items of all shards; each shard keeps its own queries."""
    slots = jnp.where(state.slots < 0, -1, state.slots + first_slot)
    scores, visited = state.scores, shards.give_back(state.visited)
    ahead = shards.max_over_blocks(state.ahead)
    if shards.blocks:
        every = partial(
            lax.all_gather, axis_name=shards.blocks, axis=1, tiled=True, to="invarying"
        )
        scores, slots = best_of(every(scores), every(slots), scores.shape[1])
    exact = ~worth(ahead, scores[:, -1])
    if shards.shared:
        mine = lax.axis_index(shards.shared) * len(visited)
        slots, scores, exact = (
            lax.dynamic_slice_in_dim(x, mine, len(visited))
            for x in (slots, scores, exact)
        )
    return TopK(slots, scores, visited, exact)
