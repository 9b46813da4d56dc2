"""AdamW with clipping, a schedule, and a separate learning rate for Llama."""

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from eqids.config import Recipe, Schedule
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


def make_schedule(recipe: Recipe, schedule: Schedule = "cosine") -> optax.Schedule:
    """Returns the learning rate by step.

    It rises linearly from 0 to its peak during the warmup (during the whole run, if
    that is shorter). Then it falls to 1% of its peak, as a cosine or linearly, or stays
    constant.

    Args:
        recipe: steps, warmup and peak.
        schedule: the form of the schedule after the warmup.
    """
    peak, warmup = recipe.learning_rate, min(recipe.warmup_steps, recipe.num_steps - 1)
    if schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, recipe.num_steps, end_value=0.01 * peak
        )
    last = peak if schedule == "constant" else 0.01 * peak
    falls = optax.linear_schedule(peak, last, recipe.num_steps - warmup)
    rises = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rises, falls], [warmup])


def make_optimizer(config: StepConfig) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW (Loshchilov & Hutter 2019) after clipping by the global norm.

    The norm includes the gradients of item tables, dense or as blocks.
    """
    recipe = config.recipe
    rate = make_schedule(recipe, config.schedule)
    dense = optax.adamw(
        rate, b1=B1, b2=B2, weight_decay=recipe.weight_decay, mask=decays
    )
    clip, last = optax.clip_by_global_norm(config.grad_clip), optax.identity()
    if config.llama_learning_rate is not None:
        scale = optax.scale(config.llama_learning_rate / recipe.learning_rate)
        last = optax.masked(scale, of_llama)
    if config.item_optimizer == "dense":
        return optax.chain(clip, dense, last)
    lazy = config.item_optimizer == "lazy_adam"
    rows = lazy_adam(B1, B2) if lazy else rowwise_adagrad()
    sparse = optax.chain(rows, optax.scale_by_learning_rate(rate))
    both = optax.partition({False: dense, True: sparse}, item_tables)
    return optax.chain(clip, both, last)


def of_llama(params: EqIDs) -> PyTree[bool]:
    """Returns which arrays are Llama's, its low-rank changes included."""
    no = jax.tree.map(lambda _: False, params)
    return eqx.tree_at(
        lambda m: m.llama, no, jax.tree.map(lambda _: True, params.llama)
    )
