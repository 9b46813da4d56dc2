"""AdamW with clipping, a warmup and a cosine."""

import jax
import optax
from jaxtyping import PyTree

from eqids.config import Recipe
from sharding import Words, words


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


def make_optimizer(recipe: Recipe, grad_clip: float) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019) behind a clip of the global norm.

    The learning rate rises linearly from 0, for the warmup or the run if that is
    shorter, and falls as a cosine to 1% of its peak.

    Args:
        recipe: steps, warmup, peak and decay.
        grad_clip: largest norm of the whole gradient.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.learning_rate,
        warmup_steps=min(recipe.warmup_steps, recipe.num_steps - 1),
        decay_steps=recipe.num_steps,
        end_value=0.01 * recipe.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(
            schedule, b1=0.9, b2=0.98, weight_decay=recipe.weight_decay, mask=decays
        ),
    )
