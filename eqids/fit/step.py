"""The train step: one jitted, donated function of state and batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eqids.config import Strategy
from eqids.fit.sparse import apply_updates
from eqids.fit.strategy import item_tables, trainable
from eqids.model import ActiveClusters, Batch, EqIDs
from eqids.model.attention import Kernel, PrefixCache


class State(eqx.Module):
    """What a step changes: all of it is saved, and nothing else."""

    step: Int[Array, ""]
    params: EqIDs
    optimizer: PyTree


class Metrics(eqx.Module):
    """What a step reports.

    The norm of the updates stands for the weights', which it would take a pass over
    the whole catalog to measure: while every update is finite, weights are.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_norm: Float[Array, ""]
    num_targets: Int[Array, ""]


Step = Any
"""A jitted `(state, frozen, batch, key, active, prefix) -> (state, metrics)`."""


def split(model: EqIDs, strategy: Strategy, dtype: DTypeLike) -> tuple[EqIDs, EqIDs]:
    """Returns what trains, in float32, and the frozen rest, in the dtype it is used."""
    params, frozen = eqx.partition(model, trainable(model, strategy))
    weights, others = eqx.partition(frozen, eqx.is_inexact_array)
    weights = jax.tree.map(lambda x: x.astype(dtype), weights)
    return params, eqx.combine(weights, others)


def start(params: EqIDs, optimizer: optax.GradientTransformation) -> State:
    """Returns the state at step 0."""

    def first(params: EqIDs) -> State:
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(first)(params)


def stored_shapes(
    model: EqIDs, strategy: Strategy, optimizer: optax.GradientTransformation
) -> State:
    """Returns the shapes of a state as checkpoints hold it, which no mesh pads.

    Args:
        model: not yet on a mesh.
        strategy: what trains.
        optimizer: as for `start`.
    """
    params, _ = eqx.partition(model, trainable(model, strategy))
    return jax.eval_shape(partial(start, optimizer=optimizer), params)


def outline(state: State) -> State:
    """Returns the shapes of a state and where its arrays lie, without the arrays."""

    def one(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(one, state)


def make_step(
    optimizer: optax.GradientTransformation,
    dtype: DTypeLike,
    *,
    remat: bool,
    kernel: Kernel = "xla",
    accumulate: int = 1,
) -> Step:
    """Returns the step, see `Step`.

    The state's buffers are donated. The key is the run's: each step folds its number
    into it, so that a resumed run draws what an uninterrupted one would. `active`
    lists the batch's clusters (`eqids.fit.active_clusters`) where item tables have a
    row-sparse optimizer, and is None where they do not. `prefix` holds a frozen Llama's
    keys and values of a prompt that is not in the rows.

    Args:
        optimizer: as it was given to `start`.
        dtype: of Llama's activations.
        remat: recompute Llama's blocks in the backward pass.
        kernel: of the attention.
        accumulate: parts of the batch that are computed one after the other.
    """

    def step(
        state: State,
        frozen: EqIDs,
        batch: Batch,
        key: PRNGKeyArray,
        active: Int[Array, " active"] | None = None,
        prefix: PrefixCache | None = None,
    ) -> tuple[State, Metrics]:
        key = jax.random.fold_in(key, state.step)
        count = jnp.sum(batch.target >= 0)

        def gradients(part: Batch, key: PRNGKeyArray) -> tuple[Array, EqIDs]:
            """The part's share of the batch's mean loss, and its gradients."""

            def loss(params: EqIDs, handles: ActiveClusters | None) -> Array:
                total, _ = eqx.combine(params, frozen).loss(
                    part, dtype=dtype, remat=remat, kernel=kernel, key=key,
                    active=handles, prefix=prefix,
                )  # fmt: skip
                return total / jnp.maximum(count, 1)

            if active is None:
                return jax.value_and_grad(loss)(state.params, None)
            return _row_sparse(loss, state.params, part, active)

        if accumulate == 1:
            loss, grads = gradients(batch, key)
        else:
            loss, grads = _summed(gradients, batch, key, accumulate)
        more = {} if active is None else {"active": active}
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer, state.params, **more
        )
        params = _apply(state.params, updates, active)
        norms = optax.tree.norm(grads), optax.tree.norm(updates)
        metrics = Metrics(loss, *norms, count)
        return State(state.step + 1, params, optimizer_state), metrics

    # What is unused (a head for words, a key) is held all the same, and counts.
    return jax.jit(step, donate_argnums=0, keep_unused=True)


def parts_of(batch: Batch, num: int) -> Batch:
    """Returns a batch as `num` parts, on a new leading axis.

    Part j is every `num`-th row from row j on, so that rows stay on their devices.
    """

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // num, num, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _summed(
    gradients: Callable[[Batch, PRNGKeyArray], tuple[Array, EqIDs]],
    batch: Batch,
    key: PRNGKeyArray,
    num: int,
) -> tuple[Array, EqIDs]:
    """Sums of what `gradients` returns over the parts of a batch, one at a time."""
    parts, keys = parts_of(batch, num), jax.random.split(key, num)

    def add(sums: PyTree, part: tuple[Batch, PRNGKeyArray]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, gradients(*part)), None

    first = jax.tree.map(lambda x: x[0], (parts, keys))
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradients, *first))
    return jax.lax.scan(add, zeros, (parts, keys))[0]


def _row_sparse(
    loss: Callable[..., Array],
    params: EqIDs,
    batch: Batch,
    active: Int[Array, " touched"],
) -> tuple[Array, EqIDs]:
    """Loss and gradients, in which item tables are their touched blocks."""
    tables, rest = eqx.partition(params, item_tables(params))
    handles, listed = eqx.partition(params.handles(batch, active), eqx.is_inexact_array)

    def of_both(rest: EqIDs, handles: ActiveClusters) -> Array:
        return loss(eqx.combine(rest, tables), eqx.combine(handles, listed))

    gradients = jax.value_and_grad(of_both, argnums=(0, 1))
    out, (grads, of_handles) = gradients(rest, handles)
    blocks = params.table_gradients(batch, eqx.combine(of_handles, listed))
    for name, block in blocks.items():
        grads = eqx.tree_at(
            partial(_table, name), grads, block, is_leaf=lambda x: x is None
        )
    return out, grads


def _table(name: str, params: EqIDs) -> Any:
    return getattr(params if name == "input_table" else params.softmax, name)


def _apply(params: EqIDs, updates: EqIDs, active: Array | None) -> EqIDs:
    if active is None:
        return optax.apply_updates(params, updates)
    is_table = item_tables(params)
    tables, rest = eqx.partition(params, is_table)
    blocks, others = eqx.partition(updates, is_table)
    moved = apply_updates(tables, blocks, active)
    return eqx.combine(optax.apply_updates(rest, others), moved)
