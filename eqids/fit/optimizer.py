"""AdamW with clipping, a warmup and a cosine."""

import jax
import optax
from jaxtyping import PyTree

from eqids.config import ItemOptimizer, Recipe
from eqids.fit.sparse import lazy_adam, rowwise_adagrad
from eqids.fit.strategy import item_tables
from sharding import Words, words

B1, B2 = 0.9, 0.98
"""Decay of Adam's moments."""


def decays(params: PyTree) -> PyTree[bool]:
    """Returns which arrays decay: matrices that are not tables of items or words.

    Norms and biases have one axis besides `layer`. Rows of a table that no batch
    touches would shrink with nothing to hold them, so they are left alone.
    """
    tables = {"cluster", "vocab"}

    def matrix(axes: Words) -> bool:
        names = set(axes.names)
        return not names & tables and len(names - {"layer"}) > 1

    return jax.tree.map(matrix, words(params))


def make_optimizer(
    recipe: Recipe, grad_clip: float, items: ItemOptimizer = "dense"
) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW (Loshchilov & Hutter 2019) behind a clip of the global norm.

    The learning rate rises linearly from 0, for the warmup or the run if that is
    shorter, and falls as a cosine to 1% of its peak. The norm is that of all
    gradients, those of item tables included, however they come.

    Args:
        recipe: steps, warmup, peak and decay.
        grad_clip: largest norm of the whole gradient.
        items: what moves item tables; all but `dense` want their gradients as blocks
            and an extra argument `touched`, see `eqids.fit.sparse`.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.learning_rate,
        warmup_steps=min(recipe.warmup_steps, recipe.num_steps - 1),
        decay_steps=recipe.num_steps,
        end_value=0.01 * recipe.learning_rate,
    )
    dense = optax.adamw(
        schedule, b1=B1, b2=B2, weight_decay=recipe.weight_decay, mask=decays
    )
    clip = optax.clip_by_global_norm(grad_clip)
    if items == "dense":
        return optax.chain(clip, dense)
    rows = lazy_adam(B1, B2) if items == "lazy_adam" else rowwise_adagrad()
    sparse = optax.chain(rows, optax.scale_by_learning_rate(schedule))
    return optax.chain(clip, optax.partition({False: dense, True: sparse}, item_tables))
