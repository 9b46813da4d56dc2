"""Best-first search in the clusters of one shard.

No item is more probable than its cluster. So a search visits clusters from the most
probable down, and stops once the k-th best item is more probable than the next cluster
(branch and bound, after Land & Doig 1960). Slots count from the shard's first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import cluster_of, place_of, slot_of
from eqids.model.mixture import Mixture
from eqids.model.scores import SoftmaxArrays, item_logits, log_normalizer, over_chunks

_ROUND = 16
"""Clusters that are sorted at a time."""
_SLACK = 2.0**-20
"""Relative rounding error by which an item may exceed its cluster's probability."""


class SearchQueries(NamedTuple):
    """The queries to one shard.

    Attributes:
        hidden: the queries.
        exclude: slots not to return; slots of other shards are ignored.
        mask: which of the masks says what may be returned.
        log_p: log P(cluster).
        floor: a score that at least k items, counted over all shards, reach.
        mixture: what counts add to the softmax, or none.
    """

    hidden: Float[Array, "*query item_width"]
    exclude: Int[Array, "*query n"]
    mask: Int[Array, "*query"]
    log_p: Float[Array, "*query cluster"]
    floor: Float[Array, "*query"]
    mixture: Mixture | None = None

    def bounds(self, cluster_size: int) -> Float[Array, "query cluster"]:
        """Returns an upper bound of the scores of each cluster's items."""
        if self.mixture is None:
            return self.log_p
        return self.mixture.bounds(self.log_p, cluster_size)


class SearchState(NamedTuple):
    """The state of searches.

    Attributes:
        scores: the scores of the best items so far, padded with -inf.
        slots: the slots of these items, padded with -1; equal scores are sorted by
            slot.
        visited: number of clusters visited.
        left: for each cluster not yet visited, an upper bound of its items' scores;
            -inf for visited ones.
        ahead: the largest of these bounds.
    """

    scores: Float[Array, "*query k"]
    slots: Int[Array, "*query k"]
    visited: Int[Array, "*query"]
    left: Float[Array, "*query cluster"]
    ahead: Float[Array, "*query"]


Each = Callable[
    [Callable[[SearchQueries, SearchState], SearchState], SearchQueries, SearchState],
    SearchState,
]
"""Applies a function of one query's search to all."""


def in_turn(
    function: Callable[[SearchQueries, SearchState], SearchState],
    queries: SearchQueries,
    state: SearchState,
) -> SearchState:
    """Runs one query after the other, for CPUs: no query waits for the slowest."""
    return lax.map(lambda both: function(*both), (queries, state))


def in_step(
    function: Callable[[SearchQueries, SearchState], SearchState],
    queries: SearchQueries,
    state: SearchState,
) -> SearchState:
    """Runs all queries at once, for accelerators."""
    return jax.vmap(function)(queries, state)


def worth(
    bound: Float[Array, "*query"],
    kth: Float[Array, "*query"],
) -> Bool[Array, "*query"]:
    """Returns whether an item with a score up to `bound` could beat the k-th best.

    It is true at equality, because among equal items the lower slot comes first.
    """
    reachable = bound + _SLACK * (1.0 + jnp.abs(bound))
    return (bound > -jnp.inf) & ~(kth > reachable)


def best_of(
    scores: Float[Array, "*query n"], slots: Int[Array, "*query n"], k: int
) -> tuple[Float[Array, "*query k"], Int[Array, "*query k"]]:
    """Returns the k best scores with their slots; equal scores are sorted by slot."""
    down, slots = lax.sort((-scores, slots), dimension=-1, num_keys=2)
    return -down[..., :k], slots[..., :k]


@dataclass(frozen=True)
class BestFirst:
    """A search for k items in one shard's clusters.

    Attributes:
        softmax: the shard's part of the arrays.
        masks: places whose items may be returned: one for all queries, or several.
        k: number of items to find.
    """

    softmax: SoftmaxArrays
    masks: Bool[Array, "mask cluster place"]
    k: int

    def start(
        self, queries: SearchQueries, bound: Float[Array, "query cluster"]
    ) -> SearchState:
        """Returns the state of searches that have visited nothing.

        Args:
            queries: the queries of the searches.
            bound: an upper bound of the scores of each cluster's items.
        """
        some = self.masks.any(axis=2)
        if len(some) > 1:
            some = some[queries.mask]
        some &= self.softmax.valid.any(axis=1) & (bound > -jnp.inf)
        left = jnp.where(some, bound, -jnp.inf)
        blank = partial(jnp.full_like, left)
        return SearchState(
            scores=blank(-jnp.inf, shape=(len(left), self.k)),
            slots=blank(-1, jnp.int32, shape=(len(left), self.k)),
            visited=blank(0, jnp.int32, shape=len(left)),
            left=left,
            ahead=left.max(axis=1),
        )

    def expand(
        self, queries: SearchQueries, state: SearchState, *, most: int, patience: int
    ) -> SearchState:
        """Visits clusters until no other can have a better item.

        Args:
            queries: one query.
            state: the state of its search.
            most: most clusters to visit.
            patience: stop early if the search seems to need more clusters than this.
        """
        size = min(_ROUND, len(self.softmax.valid))
        zero = jnp.zeros_like(state.visited)

        def one_round(carry: tuple[SearchState, Array]) -> tuple[SearchState, Array]:
            state, _ = carry
            bounds, order = lax.top_k(state.left, size)

            def goes_on(carry: tuple[Array, Array, Array]) -> Array:
                i, scores, _ = carry
                kth = jnp.maximum(scores[-1], queries.floor)
                return (i < size) & (state.visited + i < most) & worth(bounds[i], kth)

            def visit(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                i, *found = carry
                return i + 1, *self._visit(queries, order[i], *found)

            found = zero, state.scores, state.slots
            i, scores, slots = lax.while_loop(goes_on, visit, found)
            seen = jnp.arange(size) < i
            left = state.left.at[order].set(jnp.where(seen, -jnp.inf, bounds))
            kth = jnp.maximum(scores[-1], queries.floor)
            ahead, needed = lax.cond(
                i < size, lambda: (bounds[i], zero), lambda: _outlook(left, kth)
            )
            visited = state.visited + i
            may = (visited < most) & (visited + needed <= patience)
            after = SearchState(scores, slots, visited, left, ahead)
            return after, may & worth(ahead, kth)

        kth = jnp.maximum(state.scores[-1], queries.floor)
        start = state, worth(state.ahead, kth)
        return lax.while_loop(lambda carry: carry[1], one_round, start)[0]

    def _visit(
        self,
        queries: SearchQueries,
        cluster: Int[Array, ""],
        scores: Float[Array, " k"],
        slots: Int[Array, " k"],
    ) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
        """Merges a cluster's best items into the best so far."""
        cluster_size = self.softmax.valid.shape[1]
        logits = item_logits(self.softmax, cluster, 1, queries.hidden[None])
        inside = (logits - log_normalizer(logits)[:, None])[0]
        joint = queries.log_p[cluster] + inside
        if queries.mixture is not None:
            one = jax.tree.map(lambda x: x[None], queries.mixture)
            joint = one.raised(joint, cluster * cluster_size)
        allowed = self.masks[queries.mask, cluster] & self.softmax.valid[cluster]
        joint = _finite(jnp.where(allowed, joint[:, 0], -jnp.inf))
        place = _inside(queries.exclude - cluster * cluster_size, cluster_size)
        joint = joint.at[place].set(-jnp.inf, mode="drop")
        best, place = lax.top_k(joint, min(self.k, cluster_size))
        new = jnp.where(best > -jnp.inf, slot_of(cluster, place, cluster_size), -1)
        both = jnp.concatenate([scores, best]), jnp.concatenate([slots, new])
        return best_of(*both, self.k)

    def everything(self, queries: SearchQueries, each: Each) -> SearchState:
        """Scores all items of all clusters, in chunks, and returns finished searches.

        The k best items lie in the k clusters whose best items score highest, so only
        these are visited.
        """
        cluster_size = self.softmax.valid.shape[1]
        log_p, row = queries.log_p.T, jnp.arange(len(queries.hidden))[:, None]

        def step(first: Array, new: Array, best: Array) -> Array:
            size = len(new)
            logits = item_logits(self.softmax, first, size, queries.hidden)
            up = lax.dynamic_slice_in_dim(log_p, first, size)
            down = log_normalizer(logits)
            if queries.mixture is not None:
                joint = up[:, None] + (logits - down[:, None])
                joint, start = joint.reshape(-1, len(row)), first * cluster_size
                logits = queries.mixture.raised(joint, start).reshape(logits.shape)
                up, down = jnp.zeros_like(up), jnp.zeros_like(down)
            allowed = self._allowed(queries, first, size)
            slot = _inside(queries.exclude - first * cluster_size, size * cluster_size)
            logits_left = jnp.where(allowed, logits, -jnp.inf)
            at = cluster_of(slot, cluster_size), place_of(slot, cluster_size), row
            logits_left = logits_left.at[at].set(-jnp.inf, mode="drop")
            top = up + (logits_left.max(axis=1) - down)
            return lax.dynamic_update_slice_in_dim(best, _finite(top), first, axis=0)

        none = jnp.full_like(log_p, -jnp.inf)
        best = over_chunks(step, self.softmax, len(row), none).T
        visit = partial(self.expand, most=self.k, patience=len(self.softmax.valid))
        state = each(visit, queries, self.start(queries, best))
        return state._replace(
            visited=jnp.full_like(state.visited, len(self.softmax.valid)),
            ahead=jnp.full_like(state.ahead, -jnp.inf),
        )

    def _allowed(
        self, queries: SearchQueries, first: Int[Array, ""], size: int
    ) -> Bool[Array, "chunk place some"]:
        """Returns which items of consecutive clusters each query may return."""
        masks = lax.dynamic_slice_in_dim(self.masks, first, size, axis=1)
        valid = lax.dynamic_slice_in_dim(self.softmax.valid, first, size)
        if len(masks) > 1:
            masks = masks[queries.mask]
        return jnp.moveaxis(masks & valid, 0, -1)

    def finished(
        self, queries: SearchQueries, state: SearchState, *, each: Each, together: int
    ) -> SearchState:
        """Returns finished searches; scores all items for those that are not finished.

        Args:
            queries: the queries of the searches.
            state: the state of the searches.
            each: how to run the visits of several queries.
            together: number of queries for which all items are scored at a time.
        """
        num_queries = len(state.ahead)
        size = min(num_queries, together)
        kth = jnp.maximum(state.scores[:, -1], queries.floor)
        over = ~worth(state.ahead, kth)
        order = jnp.argsort(over, stable=True)
        rounds = -(-jnp.sum(~over) // size)

        def one_round(carry: tuple[Array, SearchState]) -> tuple[Array, SearchState]:
            i, state = carry
            rows = order[(i * size + jnp.arange(size)) % num_queries]
            some = jax.tree.map(lambda x: x[rows], queries)
            # Otherwise XLA moves work that does not depend on i out of the loop, and
            # does it even if the loop has no iterations.
            some, i = lax.optimization_barrier((some, i))
            done = self.everything(some, each)
            at = jnp.where(over[rows], num_queries, rows)
            state = jax.tree.map(
                lambda x, new: x.at[at].set(new, mode="drop"), state, done
            )
            return i + 1, state

        start = jnp.zeros_like(rounds), state
        return lax.while_loop(lambda carry: carry[0] < rounds, one_round, start)[1]


def _outlook(
    left: Float[Array, " cluster"], kth: Float[Array, ""]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The highest bound, and the number of clusters that a search may have to visit."""
    needed = (left >= kth) & (left > -jnp.inf)
    return left.max(), jnp.sum(needed, dtype=jnp.int32)


def _inside(index: Int[Array, "*axes"], size: int) -> Int[Array, "*axes"]:
    """Replaces negative indices, which would wrap around, by one out of range."""
    return jnp.where(index < 0, size, index)


def _finite(scores: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Replaces NaN by -inf, so that a search neither returns it nor runs on because of
    it."""
    return jnp.where(scores > -jnp.inf, scores, -jnp.inf)
