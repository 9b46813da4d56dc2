"""AdamW with clipping, a schedule, and a separate learning rate for Llama."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from eqids.config import Recipe
from eqids.fit.cooldown import LOWEST, NOT_BEGUN, cooled
from eqids.fit.sparse import lazy_adam, rowwise_adagrad
from eqids.fit.step_config import StepConfig
from eqids.fit.strategy import item_tables
from eqids.model import EqIDs
from sharding import Words, words

B1, B2 = 0.9, 0.98
"""Decay of Adam's moments."""


def decays(params: PyTree) -> PyTree[bool]:
    """Returns which arrays have weight decay: matrices, except tables of items or
    tokens.

    Norms and biases have one axis besides `layer`, and no decay. Tables have none
    because rows that no batch uses would shrink towards zero.
    """
    tables = {"cluster", "vocab"}

    def matrix(axes: Words) -> bool:
        names = set(axes.names)
        return not names & tables and len(names - {"layer"}) > 1

    return jax.tree.map(matrix, words(params))


def make_schedule(recipe: Recipe) -> optax.Schedule:
    """Returns the learning rate by step; that of schedule wsd without its cool-down.

    It rises linearly from 0 to its peak during the warmup (during the whole run, if
    that is shorter). Then it falls to 1% of its peak, as a cosine or linearly, or stays
    constant. In a run that continues another it begins after the other's steps.

    Args:
        recipe: steps, warmup, peak, and the form of the schedule after the warmup.
    """
    schedule, first = _own_schedule(recipe), recipe.first_step
    return schedule if first == 0 else lambda step: schedule(step - first)


def _own_schedule(recipe: Recipe) -> optax.Schedule:
    """The learning rate by steps of this run alone."""
    peak, warmup = recipe.learning_rate, min(recipe.warmup_steps, recipe.own_steps - 1)
    if recipe.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, recipe.own_steps, end_value=LOWEST * peak
        )
    last = LOWEST * peak if recipe.schedule == "linear" else peak
    falls = optax.linear_schedule(peak, last, recipe.own_steps - warmup)
    rises = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rises, falls], [warmup])


def make_optimizer(config: StepConfig) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW (Loshchilov & Hutter 2019) after clipping by the global norm.

    The norm includes the gradients of item tables, dense or as blocks.
    """
    recipe = config.recipe
    rate = optax.scale_by_learning_rate(make_schedule(recipe))
    if recipe.schedule == "wsd":
        rate = scale_by_cooldown(recipe)
    decayed = optax.add_decayed_weights(recipe.weight_decay, decays)
    dense = optax.chain(optax.scale_by_adam(B1, B2), decayed, rate)
    clip, last = optax.clip_by_global_norm(config.grad_clip), optax.identity()
    if config.llama_learning_rate is not None:
        scale = optax.scale(config.llama_learning_rate / recipe.learning_rate)
        last = optax.masked(scale, of_llama)
    if config.item_optimizer == "dense":
        return optax.chain(clip, dense, last)
    lazy = config.item_optimizer == "lazy_adam"
    rows = lazy_adam(B1, B2) if lazy else rowwise_adagrad()
    sparse = optax.chain(rows, rate)
    both = optax.partition({False: dense, True: sparse}, item_tables)
    return optax.chain(clip, both, last)


class CooldownState(NamedTuple):
    """The state of an optimizer whose learning rate has a cool-down."""

    steps: Int[Array, ""]
    """Number of updates."""
    begun: Int[Array, ""]
    """Updates after which the cool-down was begun early, or `NOT_BEGUN`."""


def scale_by_cooldown(recipe: Recipe) -> optax.GradientTransformation:
    """Scales updates by the negative learning rate of schedule wsd.

    The cool-down is a part of its state, so a run begins it without another program.

    Args:
        recipe: steps, warmup and peak.
    """
    rate = make_schedule(recipe)

    def init(params: PyTree) -> CooldownState:
        return CooldownState(jnp.zeros((), jnp.int32), jnp.asarray(NOT_BEGUN))

    def update(
        updates: PyTree, state: CooldownState, params: PyTree = None
    ) -> tuple[PyTree, CooldownState]:
        cooling = cooled(recipe.num_steps, *state, recipe.first_step)
        scale = -rate(state.steps) * cooling
        updates = jax.tree.map(lambda x: scale.astype(x.dtype) * x, updates)
        return updates, CooldownState(optax.safe_increment(state.steps), state.begun)

    return optax.GradientTransformation(init, update)


def begin_cooldown(optimizer: PyTree, step: Int[Array, ""]) -> PyTree:
    """Returns an optimizer's state whose learning rate falls from a step on.

    Args:
        optimizer: the state; without schedule wsd it stays as it is.
        step: the number of steps so far.
    """

    def begun(part: PyTree) -> PyTree:
        if isinstance(part, CooldownState):
            return part._replace(begun=jnp.copy(step))
        return part

    return jax.tree.map(begun, optimizer, is_leaf=_cools)


def cooldown_begun(optimizer: PyTree) -> np.int32:
    """Returns the steps after which a cool-down was begun early, or `NOT_BEGUN`."""
    parts = filter(_cools, jax.tree.leaves(optimizer, is_leaf=_cools))
    return next((np.int32(int(part.begun)) for part in parts), NOT_BEGUN)


def _cools(part: PyTree) -> bool:
    return isinstance(part, CooldownState)


def of_llama(params: EqIDs) -> PyTree[bool]:
    """Returns which arrays are Llama's, its low-rank changes included."""
    no = jax.tree.map(lambda _: False, params)
    return eqx.tree_at(
        lambda m: m.llama, no, jax.tree.map(lambda _: True, params.llama)
    )
