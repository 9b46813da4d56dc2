"""Optimizers of item tables that update only the active clusters of a batch.

They are optax transformations. In their trees a table's gradient and update are its
active blocks, `[active, place, …]`, ascending by cluster; the extra argument `active`
gives the clusters. The rest of optax (clipping, schedules, partitions) treats blocks
like any array. `apply_updates` adds blocks to tables.

Blocks are updated in place, by one loop for each array: XLA for CPU updates an array in
place only if the loop reads and writes no other array; otherwise it copies the array.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sharding import TableShards, axes_of

Trees = tuple[PyTree, ...]


class LazyAdamState(NamedTuple):
    """Moments, as dense Adam had them when each cluster was last active."""

    steps: Int[Array, ""]
    seen: Int[Array, " cluster"]
    mu: PyTree
    nu: PyTree


class AdaGradState(NamedTuple):
    """Sums of squared gradients: one for every row of `[cluster, place, …]`."""

    total: PyTree


def lazy_adam(
    b1: float = 0.9, b2: float = 0.98, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam for tables whose gradients are active blocks.

    When a block becomes active, its moments decay by beta to the power of the steps
    missed, exactly as in dense Adam at gradient zero. Lazy Adam leaves out the updates
    of parameters in the missed steps, which dense Adam makes along the old momentum.
    Tables have no weight decay.

    Args:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.

    Returns:
        A transformation whose `update` takes `active`, int32 `[active]`: each shard's
        clusters, ascending, padded with the number of all clusters.

    References:
        Kingma & Ba 2015, algorithm 1, for the moments.
    """

    def init(params: PyTree) -> LazyAdamState:
        first = jax.tree.leaves(params)[0]
        zeros = jax.tree.map(jnp.zeros_like, params)
        seen = jnp.zeros_like(first[:, *[0] * (first.ndim - 1)], dtype=jnp.int32)
        steps = jnp.zeros((), jnp.int32)
        return LazyAdamState(steps, seen, zeros, jax.tree.map(jnp.copy, zeros))

    def update(
        updates: PyTree,
        state: LazyAdamState,
        params: PyTree = None,
        *,
        active: Int[Array, " active"],
        **extra: object,
    ) -> tuple[PyTree, LazyAdamState]:
        steps = state.steps + 1

        def local(split: TableShards, trees: Trees, rows: Array) -> Trees:
            active, updates, seen, mu, nu = trees
            index = split.own(active, len(seen))
            missed = rows - seen.at[index].get(mode="fill", fill_value=0)
            leaf = partial(_adam, b1, b2, eps, rows, index, missed)
            new = jax.tree.map(leaf, updates, mu, nu)
            updates, mu, nu = (_nth(updates, new, i) for i in range(3))
            return updates, seen.at[index].set(rows, mode="drop"), mu, nu

        trees = active, updates, state.seen, state.mu, state.nu
        updates, seen, mu, nu = _per_shard(local, trees, steps)
        return updates, LazyAdamState(steps, seen, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def rowwise_adagrad(
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad with one sum for every item, for gradients that are active blocks.

    Each item has one sum, where Adam has two vectors. A missed step adds nothing to the
    sums.

    Args:
        eps: added to the root of the sum.

    Returns:
        A transformation whose `update` takes `active`, as `lazy_adam`'s does.

    References:
        Duchi, Hazan & Singer 2011; with one sum a row as in DLRM, Mudigere et al.
        2022, section 4.
    """

    def init(params: PyTree) -> AdaGradState:
        def rows(table: Array) -> Array:
            return jnp.zeros_like(table[:, :, *[0] * (table.ndim - 2)])

        return AdaGradState(jax.tree.map(rows, params))

    def update(
        updates: PyTree,
        state: AdaGradState,
        params: PyTree = None,
        *,
        active: Int[Array, " active"],
        **extra: object,
    ) -> tuple[PyTree, AdaGradState]:
        def local(split: TableShards, trees: Trees, rows: None) -> Trees:
            active, updates, total = trees
            first = jax.tree.leaves(total)[0]
            index = split.own(active, len(first))
            new = jax.tree.map(partial(_adagrad, eps, index), updates, total)
            return _nth(updates, new, 0), _nth(updates, new, 1)

        updates, total = _per_shard(local, (active, updates, state.total), None)
        return updates, AdaGradState(total)

    return optax.GradientTransformationExtraArgs(init, update)


def apply_updates(
    params: PyTree, updates: PyTree, active: Int[Array, " active"]
) -> PyTree:
    """Returns tables with updates added to their active blocks.

    Args:
        params: tables `[cluster, place, …]`.
        updates: their blocks `[active, place, …]`.
        active: the blocks' clusters, as for `lazy_adam`.
    """

    def local(split: TableShards, trees: Trees, rows: None) -> PyTree:
        active, params, updates = trees

        def add(table: Array, blocks: Array) -> Array:
            index = split.own(active, len(table))
            return in_place(
                table, index, lambda block, i: block + blocks[i].astype(block.dtype)
            )

        return jax.tree.map(add, params, updates)

    return _per_shard(local, (active, params, updates), None)


def in_place(
    array: Float[Array, "block ..."],
    index: Int[Array, " active"],
    function: Callable[[Array, Array], Array],
) -> Float[Array, "block ..."]:
    """Returns the array with `array[index[i]] = function(array[index[i]], i)`.

    Args:
        array: if `function` reads it, XLA copies it.
        index: ascending and distinct; those past the last block do nothing.
        function: takes a block and its position in `index`.
    """

    def loop(array: Array, index: Array) -> Array:
        def one(i: Array, array: Array) -> Array:
            block = jax.lax.dynamic_index_in_dim(array, index[i], keepdims=False)
            new = function(block, i)
            return jax.lax.dynamic_update_index_in_dim(array, new, index[i], 0)

        return jax.lax.fori_loop(0, jnp.sum(index < len(array)), one, array)

    def at_once(array: Array, index: Array) -> Array:
        blocks = array.at[index].get(mode="fill", fill_value=0)
        new = jax.vmap(function)(blocks, jnp.arange(len(index)))
        return array.at[index].set(new, mode="drop", unique_indices=True)

    return jax.lax.platform_dependent(array, index, cpu=loop, default=at_once)


def _adam(
    b1: float,
    b2: float,
    eps: float,
    steps: Array,
    index: Array,
    missed: Array,
    grad: Array,
    mu: Array,
    nu: Array,
) -> tuple[Array, Array, Array]:
    """The update and the new moments of one table."""

    def average(decay: float, power: int) -> Callable[[Array, Array], Array]:
        def function(moment: Array, i: Array) -> Array:
            new = grad[i].astype(moment.dtype) ** power
            return decay ** missed[i] * moment + (1 - decay) * new

        return function

    mu = in_place(mu, index, average(b1, 1))
    nu = in_place(nu, index, average(b2, 2))
    step = steps.astype(jnp.float32)

    def update(block: Array, i: Array) -> Array:
        first = mu[index[i]] / (1 - b1**step)
        second = nu[index[i]] / (1 - b2**step)
        return (first / (jnp.sqrt(second) + eps)).astype(block.dtype)

    return in_place(grad, _numbered(index, len(mu)), update), mu, nu


def _adagrad(
    eps: float, index: Array, grad: Array, total: Array
) -> tuple[Array, Array]:
    """The update and the new sums of one table."""

    def square(block: Array) -> Array:
        return block**2 if block.ndim == 1 else jnp.mean(block**2, axis=-1)

    total = in_place(total, index, lambda row, i: row + square(grad[i]))

    def update(block: Array, i: Array) -> Array:
        root = jnp.sqrt(total[index[i]]) + eps
        return block / (root if block.ndim == 1 else root[..., None])

    return in_place(grad, _numbered(index, len(total)), update), total


def _numbered(index: Array, num_clusters: int) -> Array:
    """0, 1, 2, … for the blocks in use, then numbers out of range."""
    number = jnp.arange(len(index))
    return jnp.where(index < num_clusters, number, len(index))


def _nth(like: PyTree, tuples: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda _, new: new[i], like, tuples)


def _per_shard(function: Callable[..., PyTree], trees: Trees, whole: PyTree) -> PyTree:
    """Runs a function on every shard of the tables, each with its own blocks."""
    active = trees[0]
    split = TableShards(rows=(), blocks=axes_of(active, 0))
    return split.run(partial(function, split), active, trees, whole, "blocks")
