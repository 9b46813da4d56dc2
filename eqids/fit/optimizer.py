"""AdamW with clipping, a warmup and a cosine."""

import jax
import optax
from jaxtyping import PyTree

from sharding import Words, words


def decays(params: PyTree) -> PyTree[bool]:
    """Returns which arrays decay: matrices that are not tables of items.

    Norms and biases have one axis besides `layer`. Rows of an item table that no
    batch touches would shrink with nothing to hold them, so they are left alone.
    """

    def matrix(axes: Words) -> bool:
        return "cluster" not in axes.names and len(set(axes.names) - {"layer"}) > 1

    return jax.tree.map(matrix, words(params))


def make_optimizer(
    *,
    num_steps: int,
    learning_rate: float,
    warmup_steps: int,
    weight_decay: float,
    grad_clip: float,
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019) behind a clip of the global norm.

    Args:
        num_steps: length of the schedule, warmup included.
        learning_rate: its peak; it ends at 1% of that.
        warmup_steps: steps of the linear rise from 0, cut to the run's length.
        weight_decay: see `decays`.
        grad_clip: largest norm of the whole gradient.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup_steps, max(num_steps - 1, 0)),
        decay_steps=num_steps,
        end_value=0.01 * learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(
            schedule, b1=0.9, b2=0.98, weight_decay=weight_decay, mask=decays
        ),
    )
