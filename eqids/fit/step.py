"""The train step: one jitted function of state and batch, which donates the state."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eqids.config import Strategy
from eqids.fit.optimizer import make_optimizer
from eqids.fit.sparse import apply_updates
from eqids.fit.step_config import StepConfig
from eqids.fit.strategy import item_tables, text_of, trainable
from eqids.model import ActiveClusters, Batch, EqIDs
from eqids.model.attention import PrefixCache


class State(eqx.Module):
    """Everything that a step changes; the arrays of checkpoints are exactly these."""

    step: Int[Array, ""]
    params: EqIDs
    optimizer: PyTree


class Metrics(eqx.Module):
    """What a step reports.

    The norm of the updates shows whether weights stay finite. It is cheaper than the
    norm of the weights, which needs a pass over the whole catalog.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_norm: Float[Array, ""]
    num_targets: Int[Array, ""]


@runtime_checkable
class Step(Protocol):
    """A jitted train step; it donates the state's buffers.

    The key is the run's: each step folds its number into it, so that a resumed run
    draws what an uninterrupted one would. `active` lists the batch's clusters
    (`eqids.fit.active_clusters`) if item tables have a row-sparse optimizer. `prefix`
    holds a frozen Llama's keys and values of a prompt that is not in the rows.
    """

    def __call__(
        self,
        state: State,
        frozen: EqIDs,
        batch: Batch,
        key: PRNGKeyArray,
        active: Int[Array, " active"] | None = None,
        prefix: PrefixCache | None = None,
    ) -> tuple[State, Metrics]:
        """Returns the state after one step, and what the step reports."""

    def trace(self, *args: object) -> jax.stages.Traced:
        """Returns the program of these arguments, traced."""

    def lower(self, *args: object) -> jax.stages.Lowered:
        """Returns the program of these arguments, lowered."""


def split(model: EqIDs, strategy: Strategy, dtype: DTypeLike) -> tuple[EqIDs, EqIDs]:
    """Returns the trained part, and the frozen part with Llama in the dtype of its
    use."""
    params, frozen = eqx.partition(model, trainable(model, strategy))
    llama = jax.tree.map(lambda x: x.astype(dtype), frozen.llama)
    return params, eqx.tree_at(lambda m: m.llama, frozen, llama)


def start(params: EqIDs, optimizer: optax.GradientTransformation) -> State:
    """Returns the state at step 0."""

    def first(params: EqIDs) -> State:
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(first)(params)


def stored_shapes(
    model: EqIDs, strategy: Strategy, optimizer: optax.GradientTransformation
) -> State:
    """Returns the shapes of a state in checkpoints, where no mesh pads them.

    Args:
        model: not yet on a mesh.
        strategy: which weights train.
        optimizer: as for `start`.
    """
    params, frozen = eqx.partition(model, trainable(model, strategy))
    state = jax.eval_shape(partial(start, optimizer=optimizer), params)
    return with_text(state, jax.eval_shape(text_of, frozen))


def with_text(state: State, frozen: EqIDs) -> State:
    """Returns a state as checkpoints hold it: with the frozen columns of texts."""
    params = eqx.combine(state.params, text_of(frozen))
    return eqx.tree_at(lambda s: s.params, state, params)


def outline(state: State) -> State:
    """Returns the shapes and shardings of a state."""

    def one(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(one, state)


def make_step(config: StepConfig) -> Step:
    """Returns the train step, see `Step`.

    Args:
        config: determines the step's program; `start` needs an optimizer of the same
            config.
    """
    optimizer = make_optimizer(config)

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
        loss = partial(_loss, config, frozen, count, prefix)
        gradients = partial(_gradients, loss, state.params, active)
        if config.accumulate == 1:
            mean, grads = gradients(batch, key)
        else:
            mean, grads = _summed(gradients, batch, key, config.accumulate)
        more = {} if active is None else {"active": active}
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer, state.params, **more
        )
        params = _apply(state.params, updates, active)
        norms = optax.tree.norm(grads), optax.tree.norm(updates)
        metrics = Metrics(mean, *norms, count)
        return State(state.step + 1, params, optimizer_state), metrics

    # Unused arguments (a language-model head, a key) would occupy memory.
    return jax.jit(step, donate_argnums=0, keep_unused=True)


def _loss(
    config: StepConfig,
    frozen: EqIDs,
    count: Int[Array, ""],
    prefix: PrefixCache | None,
    part: Batch,
    key: PRNGKeyArray,
    params: EqIDs,
    handles: ActiveClusters | None,
) -> Float[Array, ""]:
    """A part's share of the batch's mean loss over `count` targets."""
    total, _ = eqx.combine(params, frozen).loss(
        part,
        dtype=jnp.dtype(config.activations),
        remat=config.remat,
        unroll=config.unroll,
        kernel=config.kernel,
        key=key,
        active=handles,
        prefix=prefix,
    )
    return total / jnp.maximum(count, 1)


def _gradients(
    loss: Callable[..., Array],
    params: EqIDs,
    active: Int[Array, " active"] | None,
    part: Batch,
    key: PRNGKeyArray,
) -> tuple[Array, EqIDs]:
    """A part's loss and its gradients; for item tables, those of the active blocks."""
    of_part = partial(loss, part, key)
    if active is None:
        return jax.value_and_grad(of_part)(params, None)
    return _row_sparse(of_part, params, part, active)


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
    """Sums of losses and gradients over the parts of a batch, one part at a time."""
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
    active: Int[Array, " active"],
) -> tuple[Array, EqIDs]:
    """Loss and gradients, in which active blocks replace item tables."""
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


def _table(name: str, params: EqIDs) -> PyTree:
    return getattr(params if name == "input_table" else params.softmax, name)


def _apply(params: EqIDs, updates: EqIDs, active: Array | None) -> EqIDs:
    if active is None:
        return optax.apply_updates(params, updates)
    is_table = item_tables(params)
    tables, rest = eqx.partition(params, is_table)
    blocks, others = eqx.partition(updates, is_table)
    changed = apply_updates(tables, blocks, active)
    return eqx.combine(optax.apply_updates(rest, others), changed)
