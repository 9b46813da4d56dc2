"""What trains: one filter per strategy, for `eqx.partition`."""

from typing import Literal

import equinox as eqx
import jax
from jaxtyping import PyTree

from eqids.model import EqIDs

Strategy = Literal["heads", "all"]


def trainable(model: EqIDs, strategy: Strategy) -> PyTree[bool]:
    """Returns which leaves of the model learn.

    Args:
        model: the whole model.
        strategy: `heads` (items, adapters, gaps and softmax learn; Llama is frozen,
            though gradients flow through it to what enters below) or `all`.

    Returns:
        A tree of booleans. Leaves that are False get no gradient, no optimizer state
        and no place in a checkpoint.
    """
    learns = jax.tree.map(eqx.is_inexact_array, model)
    if strategy == "heads":
        frozen = jax.tree.map(lambda _: False, model.llama)
        learns = eqx.tree_at(lambda m: m.llama, learns, frozen)
    return learns
