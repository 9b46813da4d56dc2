"""Which weights train: a filter for each strategy, for `eqx.partition`."""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eqids.config import Strategy
from eqids.model import EqIDs
from sharding import Words, words


def trainable(model: EqIDs, strategy: Strategy) -> PyTree[bool]:
    """Returns which leaves of the model train.

    Args:
        model: the whole model; arrays or `jax.ShapeDtypeStruct`s.
        strategy: `heads` (items, adapters, gaps and softmax; Llama is frozen, and
            gradients flow through it to its inputs), `lora` (these and the low-rank
            changes of Llama) or `all`.

    Returns:
        A tree of booleans. Leaves that are False have no gradient and no optimizer
        state. The gates of counts and texts are True: they are in checkpoints, their
        gradient is zero, and `eqids.fit.gate` chooses them.
    """
    learns = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.inexact), model)
    learns = jax.tree.map(operator.and_, learns, _is_text(model, False))
    if model.successors is not None:
        learns = eqx.tree_at(lambda m: m.successors.weight, learns, False)
    if strategy == "all":
        return learns
    llama = jax.tree.map(lambda _: False, model.llama)
    if strategy == "lora":
        assert model.llama.blocks.lora is not None, "a model without LoRA"
        llama = eqx.tree_at(lambda m: m.blocks.lora, llama, learns.llama.blocks.lora)
    return eqx.tree_at(lambda m: m.llama, learns, llama)


def stored(model: EqIDs, strategy: Strategy) -> PyTree[bool]:
    """Returns which leaves of the model checkpoints hold.

    They are those that train, and the frozen columns of the items' texts: a checkpoint
    can be opened without the Llama that encoded the texts.

    Args:
        model: see `trainable`.
        strategy: see `trainable`.
    """
    learns = trainable(model, strategy)
    return jax.tree.map(operator.or_, learns, _is_text(model, True))


def text_of(model: EqIDs) -> EqIDs:
    """Returns the frozen columns of the items' texts; all other arrays are None."""
    return eqx.filter(model, _is_text(model, True))


def without_text(params: EqIDs) -> EqIDs:
    """Returns what `text_of` leaves out."""
    return eqx.filter(params, _is_text(params, False))


def _is_text(model: EqIDs, yes: bool) -> PyTree[bool]:
    """`yes` for the arrays of text features, its opposite for all others."""

    def arrays(model: EqIDs) -> list[PyTree]:
        return jax.tree.leaves((model.softmax.text, model.text_axes))

    others = jax.tree.map(lambda _: not yes, model)
    if not arrays(model):
        return others
    return eqx.tree_at(arrays, others, replace_fn=lambda _: yes)


def item_tables(params: EqIDs) -> PyTree[bool]:
    """Returns which arrays have a block for every cluster: item vectors and biases.

    A row-sparse optimizer updates them. The answer is the same for a tree of updates,
    in which active blocks replace the tables.
    """

    def is_table(axes: Words) -> bool:
        return axes.names[:2] == ("cluster", "place")

    return jax.tree.map(is_table, words(params, bind=False))
