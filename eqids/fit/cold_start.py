"""Items that nobody has used yet: each stands where the used item with the nearest text
does.

A softmax pushes away whatever is never a target, so items without a training event are
left out of training's normalizers. Whenever weights leave the training loop, they get
the vector and the bias of the used item of their cluster whose text is nearest: an item
is given the place, and the share of use, of its like. Means of several, or a regression
on texts, would gather them in the middle of a cluster, where no query reaches.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from eqids.data import Dataset
from eqids.fit.step import State
from eqids.model import EqIDs
from sharding import per_shard


class ColdItems(eqx.Module):
    """Which items are used, and what the texts of all of them say.

    Attributes:
        text: vectors of texts, zeros where there is none.
        used: items with training events.
        unused: valid items without.
    """

    text: Float[Array, "cluster place item_width"]
    used: Bool[Array, "cluster place"]
    unused: Bool[Array, "cluster place"]

    @staticmethod
    def of(
        dataset: Dataset, vectors: Float[np.ndarray, "cluster place item_width"]
    ) -> "ColdItems":
        """Returns those of a dataset, not yet on a mesh.

        Args:
            dataset: whose training events count.
            vectors: of the items' texts.
        """
        used, valid = dataset.item_counts > 0, dataset.item_valid
        return ColdItems(
            jnp.asarray(vectors), jnp.asarray(used), jnp.asarray(valid & ~used)
        )

    def hidden(self, frozen: EqIDs) -> EqIDs:
        """Returns the frozen part of a model in which unused items do not exist."""
        valid = frozen.softmax.valid & ~self.unused
        return eqx.tree_at(lambda m: m.softmax.valid, frozen, valid)

    def placed(self, state: State) -> State:
        """Returns a state whose unused items stand where their likes do.

        Those without a text, or in a cluster without a used item, keep their places.
        """
        return eqx.tree_at(lambda s: s.params, state, _placed(state.params, self))


@jax.jit
def _placed(params: EqIDs, items: ColdItems) -> EqIDs:
    like = per_shard(_likes, (), items.text, items.used, items.unused)

    def moved(rows: Float[Array, "cluster place *width"]) -> Array:
        return per_shard(_taken, (), rows, like)

    def tables(params: Any) -> list[Any]:
        softmax = params.softmax
        found = [softmax.table, softmax.bias, params.input_table]
        return [table for table in found if table is not None]

    return eqx.tree_at(tables, params, [moved(rows) for rows in tables(params)])


def _likes(
    _: tuple[()],
    text: Float[Array, "cluster place item_width"],
    used: Bool[Array, "cluster place"],
    unused: Bool[Array, "cluster place"],
) -> Int[Array, "cluster place"]:
    """The place whose row each place is to have: of most items, their own."""

    def of_cluster(one: tuple[Array, Array, Array]) -> Array:
        text, used, unused = one
        length = jnp.linalg.norm(text, axis=-1, keepdims=True)
        text = text / jnp.maximum(length, 1e-9)
        cosine = jnp.where(used, text @ text.T, -jnp.inf)
        own = jnp.arange(len(used))
        told = unused & text.any(axis=-1) & used.any()
        return jnp.where(told, cosine.argmax(axis=-1), own)

    # One at a time: all cosines at once would be of many times the tables' size.
    return jax.lax.map(of_cluster, (text, used, unused))


def _taken(
    _: tuple[()],
    rows: Float[Array, "cluster place *width"],
    place: Int[Array, "cluster place"],
) -> Float[Array, "cluster place *width"]:
    return jax.vmap(lambda rows, place: rows[place])(rows, place)
