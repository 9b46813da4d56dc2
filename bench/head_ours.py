"""The hierarchical softmax's steps, as contenders of `python -m bench head`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from bench.contender import Contender, compiled
from bench.record import OURS
from eqids.fit.active_clusters import ClusterLists, chances, expected_capacity
from eqids.fit.sparse import apply_updates, lazy_adam
from eqids.model import HierarchicalSoftmax

STEP, UPDATE = "forward + backward", "with update"
DENSE = "with update, dense"
LEARNING_RATE = 1e-3


class HierarchicalContenders:
    """The hierarchical softmax's steps, which share one table.

    They compute the gradients of everything that trains: queries, cluster vectors, and
    the item vectors of the active clusters.
    """

    def __init__(
        self,
        head: HierarchicalSoftmax,
        hidden: Float[Array, "target item_width"],
        slot: Int[Array, " target"],
        popularity: Float[np.ndarray, " item"],
    ):
        """Lists the active clusters as training does.

        Args:
            head: the catalog.
            hidden: the queries.
            slot: their targets.
            popularity: how often each item is drawn, in the order of slots.
        """
        self.head, self.hidden, self.slot = head, hidden, slot
        num_clusters, cluster_size = head.valid.shape
        cluster = np.flatnonzero(head.valid) // cluster_size
        counts = np.bincount(cluster, popularity, num_clusters)
        capacity = expected_capacity(chances(counts, len(slot)), 1)
        lists = ClusterLists(num_clusters, cluster_size, 1, capacity)
        listed = lists.of_slots(np.asarray(slot))
        self.active = jnp.asarray(listed)
        self._facts = {"active": int(np.sum(listed < num_clusters))}

    def step(self) -> Contender:
        """The loss and its gradients; of the table, those of the active clusters."""
        args = self.head, self.active, self.hidden, self.slot
        program = compiled(gradients, *args)

        def run() -> None:
            # `update` may have donated and replaced the head.
            args = self.head, self.active, self.hidden, self.slot
            jax.block_until_ready(program.call(*args))

        return Contender(OURS, STEP, run, program, dict(self._facts))

    def update(self) -> Contender:
        """The same, then Adam: lazy for item vectors, dense for cluster vectors."""
        tables, clusters = _parts(self.head)
        state = lazy_adam().init(tables), optax.adam(LEARNING_RATE).init(clusters)
        args = self.head, state, self.active, self.hidden, self.slot
        program = compiled(_update, *args, donate=(0, 1))

        def run() -> None:
            nonlocal state
            self.head, state, to_hidden = program.call(
                self.head, state, self.active, self.hidden, self.slot
            )
            jax.block_until_ready((self.head, state, to_hidden))

        return Contender(OURS, UPDATE, run, program, dict(self._facts))

    def dense_update(self) -> Contender:
        """The same with gradients of whole tables, and dense Adam on all of them."""
        optimizer = optax.adam(LEARNING_RATE)
        state = jax.jit(optimizer.init)(_trained(self.head))
        args = self.head, state, self.hidden, self.slot
        program = compiled(_dense_update, *args, donate=(0, 1))

        def run() -> None:
            nonlocal state
            self.head, state, to_hidden = program.call(
                self.head, state, self.hidden, self.slot
            )
            jax.block_until_ready((self.head, state, to_hidden))

        return Contender(OURS, DENSE, run, program)


TableAndBias = tuple[Array, Array]
States = tuple[optax.OptState, optax.OptState]
"""Of lazy and of dense Adam."""


def _parts(head: HierarchicalSoftmax) -> tuple[TableAndBias, TableAndBias]:
    """Returns what lazy Adam updates, and what dense Adam updates."""
    return (head.table, head.bias), (head.cluster_table, head.cluster_bias)


def gradients(
    head: HierarchicalSoftmax, cluster: Array, hidden: Array, slot: Array
) -> tuple[Array, TableAndBias, TableAndBias, Array]:
    """Returns the loss, and the gradients of item tables, clusters and queries."""
    active = head.handles(cluster)
    blocks = active.table, active.bias

    @eqx.filter_value_and_grad
    def loss(given: tuple[TableAndBias, TableAndBias, Array]) -> Array:
        blocks, clusters, hidden = given
        whole = eqx.tree_at(lambda h: _parts(h)[1], head, clusters)
        handle = eqx.tree_at(lambda t: (t.table, t.bias), active, blocks)
        return whole.loss(hidden, slot, handle)

    value, grads = loss((blocks, _parts(head)[1], hidden))
    return value, *grads


def _update(
    head: HierarchicalSoftmax,
    state: States,
    active: Array,
    hidden: Array,
    slot: Array,
) -> tuple[HierarchicalSoftmax, States, Array]:
    _, blocks, grads, to_hidden = gradients(head, active, hidden, slot)
    tables, clusters = _parts(head)
    sparse, dense = state
    updates, sparse = lazy_adam().update(blocks, sparse, active=active)
    updates = jax.tree.map(lambda x: -LEARNING_RATE * x, updates)
    tables = apply_updates(tables, updates, active)
    changes, dense = optax.adam(LEARNING_RATE).update(grads, dense)
    clusters = optax.apply_updates(clusters, changes)
    head = eqx.tree_at(_trained, head, (*tables, *clusters))
    return head, (sparse, dense), to_hidden


def _trained(head: HierarchicalSoftmax) -> tuple[Array, ...]:
    return sum(_parts(head), ())


def _dense_update(
    head: HierarchicalSoftmax, state: optax.OptState, hidden: Array, slot: Array
) -> tuple[HierarchicalSoftmax, optax.OptState, Array]:
    @eqx.filter_value_and_grad
    def loss(given: tuple[tuple[Array, ...], Array]) -> Array:
        trained, hidden = given
        return eqx.tree_at(_trained, head, trained).loss(hidden, slot)

    _, (grads, to_hidden) = loss((_trained(head), hidden))
    changes, state = optax.adam(LEARNING_RATE).update(grads, state)
    trained = optax.apply_updates(_trained(head), changes)
    return eqx.tree_at(_trained, head, trained), state, to_hidden
