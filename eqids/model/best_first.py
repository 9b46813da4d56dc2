"""Best-first search in the clusters of one shard.

No item is more probable than its cluster. So clusters are visited from the most
probable down, and once the k-th best item found is more probable than the next
cluster, nothing that is left can enter (branch and bound, after Land & Doig 1960).
Slots here count from the shard's first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.model.scores import Head, item_logits, log_normalizer, over_chunks

_ROUND = 16
"""Clusters that are put in order at a time."""
_SLACK = 2.0**-20
"""Relative rounding by which an item may seem more probable than its cluster."""


class Queries(NamedTuple):
    """What is asked of one shard.

    Attributes:
        hidden: the queries.
        exclude: slots not to return; those of other shards are left alone.
        log_p: log P(cluster).
        floor: a score that k items, here or on other shards, are known to reach.
    """

    hidden: Float[Array, "*query item_width"]
    exclude: Int[Array, "*query n"]
    log_p: Float[Array, "*query cluster"]
    floor: Float[Array, "*query"]


class State(NamedTuple):
    """Where searches stand.

    Attributes:
        scores: of the best items so far, -inf where there are none.
        slots: of these, -1 where there are none; equal scores by slot.
        visited: clusters visited.
        left: for each cluster not yet visited, a score that no item of it exceeds;
            -inf for the others.
        ahead: the largest of these.
    """

    scores: Float[Array, "*query k"]
    slots: Int[Array, "*query k"]
    visited: Int[Array, "*query"]
    left: Float[Array, "*query cluster"]
    ahead: Float[Array, "*query"]


Each = Callable[[Callable[[Queries, State], State], Queries, State], State]
"""Applies a function of one query to all."""


def in_turn(
    function: Callable[[Queries, State], State], queries: Queries, state: State
) -> State:
    """One query after the other, as suits a CPU: none waits for the slowest."""
    return lax.map(lambda both: function(*both), (queries, state))


def in_step(
    function: Callable[[Queries, State], State], queries: Queries, state: State
) -> State:
    """All queries at once, as suits an accelerator."""
    return jax.vmap(function)(queries, state)


def worth(
    bound: Float[Array, "*query"],
    kth: Float[Array, "*query"],
) -> Bool[Array, "*query"]:
    """Returns whether items within a bound could enter k items, the worst `kth`.

    Equal is not enough to stop: an equal item of a lower slot comes first.
    """
    reachable = bound + _SLACK * (1.0 + jnp.abs(bound))
    return (bound > -jnp.inf) & ~(kth > reachable)


def best_of(
    scores: Float[Array, "*query n"], slots: Int[Array, "*query n"], k: int
) -> tuple[Float[Array, "*query k"], Int[Array, "*query k"]]:
    """Returns the k best scores with their slots, equal scores by slot."""
    down, slots = lax.sort((-scores, slots), dimension=-1, num_keys=2)
    return -down[..., :k], slots[..., :k]


@dataclass(frozen=True)
class BestFirst:
    """A search for k items in one shard's clusters.

    Attributes:
        head: the clusters.
        shown: places whose items may be returned.
        k: how many items are wanted.
    """

    head: Head
    shown: Bool[Array, "cluster place"]
    k: int

    def start(self, queries: Queries, bound: Float[Array, "query cluster"]) -> State:
        """Returns the state of searches that have visited nothing.

        Args:
            queries: what is asked.
            bound: for every cluster, a score that no item of it exceeds.
        """
        some = self.shown.any(axis=1) & (bound > -jnp.inf)
        left = jnp.where(some, bound, -jnp.inf)
        blank = partial(jnp.full_like, left)
        return State(
            scores=blank(-jnp.inf, shape=(len(left), self.k)),
            slots=blank(-1, jnp.int32, shape=(len(left), self.k)),
            visited=blank(0, jnp.int32, shape=len(left)),
            left=left,
            ahead=left.max(axis=1),
        )

    def expand(
        self, queries: Queries, state: State, *, most: int, patience: int
    ) -> State:
        """Visits clusters until nothing that is left is worth it.

        Args:
            queries: one query.
            state: where its search stands.
            most: clusters to visit at most.
            patience: give up as soon as more clusters than that seem to be needed.
        """
        size = min(_ROUND, len(self.shown))
        zero = jnp.zeros_like(state.visited)

        def one_round(carry: tuple[State, Array]) -> tuple[State, Array]:
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
            return State(scores, slots, visited, left, ahead), may & worth(ahead, kth)

        kth = jnp.maximum(state.scores[-1], queries.floor)
        start = state, worth(state.ahead, kth)
        return lax.while_loop(lambda carry: carry[1], one_round, start)[0]

    def _visit(
        self,
        queries: Queries,
        cluster: Int[Array, ""],
        scores: Float[Array, " k"],
        slots: Int[Array, " k"],
    ) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
        """Puts a cluster's best items among the best so far."""
        cluster_size = self.shown.shape[1]
        logits = item_logits(self.head, cluster, 1, queries.hidden[None])
        inside = (logits - log_normalizer(logits)[:, None])[0, :, 0]
        shown = lax.dynamic_index_in_dim(self.shown, cluster, keepdims=False)
        joint = _finite(queries.log_p[cluster] + jnp.where(shown, inside, -jnp.inf))
        place = _inside(queries.exclude - cluster * cluster_size, cluster_size)
        joint = joint.at[place].set(-jnp.inf, mode="drop")
        best, place = lax.top_k(joint, min(self.k, cluster_size))
        new = jnp.where(best > -jnp.inf, cluster * cluster_size + place, -1)
        both = jnp.concatenate([scores, best]), jnp.concatenate([slots, new])
        return best_of(*both, self.k)

    def everything(self, queries: Queries, each: Each) -> State:
        """Scores all items of all clusters, in chunks, and returns finished searches.

        The k best lie in the k clusters whose own best are highest: no others are
        visited.
        """
        cluster_size = self.shown.shape[1]
        log_p, row = queries.log_p.T, jnp.arange(len(queries.hidden))[:, None]

        def step(first: Array, new: Array, best: Array) -> Array:
            size = len(new)
            logits = item_logits(self.head, first, size, queries.hidden)
            shown = lax.dynamic_slice_in_dim(self.shown, first, size)
            slot = _inside(queries.exclude - first * cluster_size, size * cluster_size)
            open_ = jnp.where(shown[..., None], logits, -jnp.inf)
            open_ = open_.at[slot // cluster_size, slot % cluster_size, row].set(
                -jnp.inf, mode="drop"
            )
            inside = open_.max(axis=1) - log_normalizer(logits)
            top = lax.dynamic_slice_in_dim(log_p, first, size) + inside
            return lax.dynamic_update_slice_in_dim(best, _finite(top), first, axis=0)

        none = jnp.full_like(log_p, -jnp.inf)
        best = over_chunks(step, self.head, len(row), none).T
        visit = partial(self.expand, most=self.k, patience=len(self.shown))
        state = each(visit, queries, self.start(queries, best))
        return state._replace(
            visited=jnp.full_like(state.visited, len(self.shown)),
            ahead=jnp.full_like(state.ahead, -jnp.inf),
        )

    def finished(
        self, queries: Queries, state: State, *, each: Each, together: int
    ) -> State:
        """Returns all searches finished, by scoring everything where need be.

        Args:
            queries: what is asked.
            state: where the searches stand.
            each: how single clusters are visited.
            together: queries that are scored against everything at a time.
        """
        num_queries = len(state.ahead)
        size = min(num_queries, together)
        kth = jnp.maximum(state.scores[:, -1], queries.floor)
        over = ~worth(state.ahead, kth)
        order = jnp.argsort(over, stable=True)
        rounds = -(-jnp.sum(~over) // size)

        def one_round(carry: tuple[Array, State]) -> tuple[Array, State]:
            i, state = carry
            rows = order[(i * size + jnp.arange(size)) % num_queries]
            some = jax.tree.map(lambda x: x[rows], queries)
            # Or XLA takes what does not depend on i out of a loop that may not run.
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
    """The highest bound, and how many clusters may have to be visited at most."""
    needed = (left >= kth) & (left > -jnp.inf)
    return left.max(), jnp.sum(needed, dtype=jnp.int32)


def _inside(index: Int[Array, "*axes"], size: int) -> Int[Array, "*axes"]:
    """Negative indices, which would wrap around, moved out of range."""
    return jnp.where(index < 0, size, index)


def _finite(scores: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """-inf for what is no number: never found, and never waited for."""
    return jnp.where(scores > -jnp.inf, scores, -jnp.inf)
