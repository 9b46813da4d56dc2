"""The train step: one jitted, donated function of state and batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eqids.config import Strategy
from eqids.fit.strategy import trainable
from eqids.model import Batch, EqIDs


class State(eqx.Module):
    """What a step changes: all of it is saved, and nothing else."""

    step: Int[Array, ""]
    params: EqIDs
    optimizer: PyTree


class Metrics(eqx.Module):
    """What a step reports."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    param_norm: Float[Array, ""]
    num_targets: Int[Array, ""]


Step = Any
"""A jitted `(state, frozen, batch, key) -> (state, metrics)`."""


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


def make_step(
    optimizer: optax.GradientTransformation, dtype: DTypeLike, *, remat: bool
) -> Step:
    """Returns the step, `(state, frozen, batch, key) -> (state, metrics)`.

    The state's buffers are donated. The key is the run's: each step folds its number
    into it, so that a resumed run draws what an uninterrupted one would.

    Args:
        optimizer: as it was given to `start`.
        dtype: of Llama's computation.
        remat: recompute Llama's blocks in the backward pass.
    """

    def step(
        state: State, frozen: EqIDs, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        key = jax.random.fold_in(key, state.step)

        def mean_loss(params: EqIDs) -> tuple[Array, Array]:
            model = eqx.combine(params, frozen)
            total, count = model.loss(batch, dtype=dtype, remat=remat, key=key)
            return total / jnp.maximum(count, 1), count

        (loss, count), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        norms = optax.tree.norm(grads), optax.tree.norm(params)
        metrics = Metrics(loss, *norms, count)
        return State(state.step + 1, params, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0)
