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
LEARNING_RATE = 1e-3


class Ours:
    """The hierarchical softmax, whose steps share one table.

    Gradients reach everything that trains: queries, clusters, and the blocks of the
    clusters that a target is in.
    """

    def __init__(
        self,
        head: HierarchicalSoftmax,
        hidden: Float[Array, "target item_width"],
        slot: Int[Array, " target"],
        popularity: Float[np.ndarray, " item"],
    ):
        """Lists the touched clusters as training does.

        Args:
            head: the catalog.
            hidden: queries.
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
        """The loss and its gradients, those of the table by touched blocks."""
        args = self.head, self.active, self.hidden, self.slot
        program = compiled(_gradients, *args)

        def run() -> None:
            # The head may have been donated and replaced since.
            args = self.head, self.active, self.hidden, self.slot
            jax.block_until_ready(program.call(*args))

        return Contender(OURS, STEP, run, program, dict(self._facts))

    def update(self) -> Contender:
        """The same, then Adam: lazy for touched blocks, dense for clusters."""
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


Pair = tuple[Array, Array]


def _parts(head: HierarchicalSoftmax) -> tuple[Pair, Pair]:
    """What is updated by touched blocks, and what is updated whole."""
    return (head.table, head.bias), (head.cluster_table, head.cluster_bias)


def _gradients(
    head: HierarchicalSoftmax, cluster: Array, hidden: Array, slot: Array
) -> tuple[Array, Pair, Pair, Array]:
    """Loss, and the gradients of blocks, clusters and queries."""
    active = head.handles(cluster)
    blocks = active.table, active.bias

    @eqx.filter_value_and_grad
    def loss(given: tuple[Pair, Pair, Array]) -> Array:
        blocks, clusters, hidden = given
        whole = eqx.tree_at(lambda h: _parts(h)[1], head, clusters)
        handle = eqx.tree_at(lambda t: (t.table, t.bias), active, blocks)
        return whole.loss(hidden, slot, handle)

    value, grads = loss((blocks, _parts(head)[1], hidden))
    return value, *grads


def _update(
    head: HierarchicalSoftmax,
    state: tuple,
    active: Array,
    hidden: Array,
    slot: Array,
) -> tuple[HierarchicalSoftmax, tuple, Array]:
    _, blocks, grads, to_hidden = _gradients(head, active, hidden, slot)
    tables, clusters = _parts(head)
    sparse, dense = state
    moves, sparse = lazy_adam().update(blocks, sparse, active=active)
    moves = jax.tree.map(lambda x: -LEARNING_RATE * x, moves)
    tables = apply_updates(tables, moves, active)
    changes, dense = optax.adam(LEARNING_RATE).update(grads, dense)
    clusters = optax.apply_updates(clusters, changes)
    head = eqx.tree_at(lambda h: sum(_parts(h), ()), head, (*tables, *clusters))
    return head, (sparse, dense), to_hidden
