"""The exact k most probable items, without scoring the catalog.

Clusters are visited best first (`eqids.model.best_first`). Where probabilities are
flat that takes long; such queries are finished by scoring everything, in memory that
does not grow with the catalog. Clusters may be split over a mesh: every shard searches
its own, and they exchange k candidates a query.
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.model.best_first import (
    BestFirst,
    Queries,
    State,
    best_of,
    in_step,
    in_turn,
    worth,
)
from eqids.model.scores import Head, cluster_log_probs, on_shards
from sharding import Split

_SMALL = 2**16
"""Slots of a catalog that is always scored whole."""
_PATIENCE = 16
"""A query is searched while it needs at most one in so many clusters: reading more of
them one by one takes longer than scoring everything for many queries at once."""
_TOGETHER = 32
"""Queries that a CPU scores against everything at a time."""
_TOGETHER_ACCELERATED = 256
"""The same on other devices."""

Method = Literal["auto", "search", "full"]


class TopK(NamedTuple):
    """The most probable items of every query, best first, equal ones by slot.

    Attributes:
        slots: -1 where fewer than k items may be returned.
        log_probs: float32, -inf there.
        visited: clusters whose items were scored.
        exact: whether it is proven that no other item belongs here; it always is,
            unless `max_clusters` was given.
    """

    slots: Int[Array, "*batch k"]
    log_probs: Float[Array, "*batch k"]
    visited: Int[Array, "*batch"]
    exact: Bool[Array, "*batch"]


def top_k(
    head: Head,
    hidden: Float[Array, "*batch item_width"],
    k: int,
    *,
    exclude: Int[Array, "*batch n"] | None = None,
    allowed: Bool[Array, "cluster place"] | None = None,
    max_clusters: int | None = None,
    method: Method = "auto",
) -> TopK:
    """Returns the k most probable items, exactly, with their log-probabilities.

    Items that may not be returned stay in the normalizers. The answer does not depend
    on the mesh.

    Args:
        head: the hierarchical softmax.
        hidden: queries; the leading axis may be split over the mesh.
        k: how many; more than there are items is allowed.
        exclude: slots not to return, per query; what is no slot is padding.
        allowed: places that may be returned to any query, by default all.
        max_clusters: visit no more for a query (shards share them evenly, and each
            visits one), and say whether the answer is exact all the same. Scoring
            everything ignores it.
        method: visit clusters ("search"), score everything ("full"), or what suits
            the size of the catalog and the device ("auto").
    """
    if hidden.ndim == 1:
        rest = None if exclude is None else exclude[None]
        found = top_k(
            head, hidden[None], k, exclude=rest, allowed=allowed,
            max_clusters=max_clusters, method=method,
        )  # fmt: skip
        return TopK(*(x[0] for x in found))
    if method == "auto" and head.valid.size <= _SMALL and max_clusters is None:
        method = "full"
    if exclude is None:
        exclude = jnp.zeros((*hidden.shape[:-1], 0), jnp.int32)
    if allowed is None:
        allowed = head.valid
    local = partial(_local_top_k, k=k, max_clusters=max_clusters, method=method)
    return on_shards(local, head, allowed, hidden, exclude)


def _local_top_k(
    split: Split,
    head: Head,
    allowed: Bool[Array, "cluster place"],
    hidden: Float[Array, "*batch item_width"],
    exclude: Int[Array, "*batch n"],
    *,
    k: int,
    max_clusters: int | None,
    method: Method,
) -> TopK:
    """What one shard does: it searches its clusters, and merges what all found."""
    first_slot = split.first_block(head.valid.shape[0]) * head.valid.shape[1]
    batch = hidden.shape[:-1]
    query, slots = (
        split.gather(x.reshape(math.prod(batch), x.shape[-1]))
        for x in (hidden, exclude)
    )
    log_p = cluster_log_probs(split, head, query)
    floor = jnp.full_like(log_p[:, 0], -jnp.inf)
    queries = Queries(query, slots - first_slot, log_p, floor)
    clusters = BestFirst(head, head.valid & allowed, k)
    start = clusters.start(queries, log_p)
    search = partial(_searched, split, clusters, max_clusters=max_clusters)
    whole = partial(clusters.finished, each=in_turn, together=_TOGETHER)
    whole_accelerated = partial(
        clusters.finished, each=in_step, together=_TOGETHER_ACCELERATED
    )
    way = {"search": search, "full": whole, "auto": search}[method]
    default = search if method == "search" else whole_accelerated
    state = lax.platform_dependent(queries, start, cpu=way, default=default)
    found = _merged(split, state, first_slot)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)


def _searched(
    split: Split,
    clusters: BestFirst,
    queries: Queries,
    state: State,
    *,
    max_clusters: int | None,
) -> State:
    """Visits clusters best first, and scores everything where that leads too far."""
    num_clusters = len(clusters.shown)
    if split.blocks:
        # What all shards find in their best clusters spares each of them visits.
        first = partial(clusters.expand, most=1, patience=num_clusters)
        state = in_turn(first, queries, state)
        scores = lax.all_gather(state.scores, split.blocks, axis=1, tiled=True)
        kth = lax.top_k(scores, clusters.k)[0][:, -1]
        queries = queries._replace(floor=kth)
    if max_clusters is not None:
        most = -(-max_clusters // lax.psum(1, split.blocks))
        limited = partial(clusters.expand, most=most, patience=num_clusters)
        return in_turn(limited, queries, state)
    patience = num_clusters // _PATIENCE
    patient = partial(clusters.expand, most=num_clusters, patience=patience)
    state = in_turn(patient, queries, state)
    return clusters.finished(queries, state, each=in_turn, together=_TOGETHER)


def _merged(split: Split, state: State, first_slot: Int[Array, ""] | int) -> TopK:
    """The best of all shards, for each the queries that are its own."""
    slots = jnp.where(state.slots < 0, -1, state.slots + first_slot)
    scores, visited = state.scores, split.give_back(state.visited)
    ahead = split.max_over_blocks(state.ahead)
    if split.blocks:
        every = partial(
            lax.all_gather, axis_name=split.blocks, axis=1, tiled=True, to="invarying"
        )
        scores, slots = best_of(every(scores), every(slots), scores.shape[1])
    exact = ~worth(ahead, scores[:, -1])
    if split.shared:
        mine = lax.axis_index(split.shared) * len(visited)
        slots, scores, exact = (
            lax.dynamic_slice_in_dim(x, mine, len(visited))
            for x in (slots, scores, exact)
        )
    return TopK(slots, scores, visited, exact)
