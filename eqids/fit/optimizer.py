"""AdamW with clipping, a schedule, and a separate learning rate for Llama."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from eqids.config import Recipe
from eqids.fit.cooldown import LOWEST, NOT_BEGUN, cooled
from eqids.fit.sparse import lazy_adam, rowwise_adagrad
from eqids.fit.step_config import StepConfig
from eqids.fit.strategy import item_tables
from eqids.model import EqIDs
from sharding import Words, words

B1, B2 = 0.9, 0.98
"""Decay of Adam's moments."""

LearningRate = Callable[
    [Int[Array, ""], Int[Array, ""] | np.int32], Float[Array, ""] | float
]
"""The learning rate by the number of steps before, and those after which a cool-down
was begun (`NOT_BEGUN` if none was)."""


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


def make_schedule(recipe: Recipe) -> LearningRate:
    """Returns the learning rate by step.

    It rises linearly from 0 to its peak during the warmup (during the whole run, if
    that is shorter). Then it falls to 1% of its peak, as a cosine or linearly, or stays
    constant, or stays constant until its cool-down (`eqids.fit.cooldown`).

    Args:
        recipe: steps, warmup, peak, and the form of the schedule after the warmup.
    """
    peak, warmup = recipe.learning_rate, min(recipe.warmup_steps, recipe.num_steps - 1)
    if recipe.schedule == "cosine":
        cosine = optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, recipe.num_steps, end_value=LOWEST * peak
        )
        return lambda step, begun: cosine(step)
    last = LOWEST * peak if recipe.schedule == "linear" else peak
    falls = optax.linear_schedule(peak, last, recipe.num_steps - warmup)
    rises = optax.linear_schedule(0.0, peak, warmup)
    joined = optax.join_schedules([rises, falls], [warmup])
    if recipe.schedule == "wsd":
        return lambda step, begun: joined(step) * cooled(recipe.num_steps, step, begun)
    return lambda step, begun: joined(step)


def make_optimizer(config: StepConfig) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW (Loshchilov & Hutter 2019) after clipping by the global norm.

    The norm includes the gradients of item tables, dense or as blocks. Its `update`
    takes `cooldown`, see `State`.
    """
    recipe = config.recipe
    rate = scale_by_rate(make_schedule(recipe))
    dense = optax.chain(
        optax.scale_by_adam(B1, B2),
        optax.add_decayed_weights(recipe.weight_decay, decays),
        rate,
    )
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


def scale_by_rate(rate: LearningRate) -> optax.GradientTransformationExtraArgs:
    """Scales updates by the negative learning rate, as `scale_by_learning_rate` does.

    Args:
        rate: the learning rate by step.

    Returns:
        A transformation whose `update` takes `cooldown`.
    """

    def init(params: PyTree) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree,
        state: optax.ScaleByScheduleState,
        params: PyTree = None,
        *,
        cooldown: Int[Array, ""] | np.int32 = NOT_BEGUN,
        **extra: object,
    ) -> tuple[PyTree, optax.ScaleByScheduleState]:
        scale = -1 * rate(state.count, cooldown)
        updates = jax.tree.map(lambda x: jnp.array(scale, x.dtype) * x, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def of_llama(params: EqIDs) -> PyTree[bool]:
    """Returns which arrays are Llama's, its low-rank changes included."""
    no = jax.tree.map(lambda _: False, params)
    return eqx.tree_at(
        lambda m: m.llama, no, jax.tree.map(lambda _: True, params.llama)
    )
