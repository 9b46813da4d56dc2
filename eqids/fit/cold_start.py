"""Items that nobody has used yet copy the used item whose text is most similar.

The gradient of a softmax lowers the score of items that are never a target, so training
leaves items without a training event out of its normalizers. Whenever weights are saved
or evaluated, each of these items gets the vector and the bias of the used item in its
cluster whose text is most similar. The mean of several items, or a regression on texts,
would put unused items near the centre of a cluster, where they rank low for every
query. Items with text columns are found by these, and keep their own.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from eqids.data import Dataset
from eqids.fit.step import State
from eqids.model import EqIDs
from sharding import per_shard

_ROWS = 512
"""Items that are compared with all others of their cluster at a time."""


class ColdItems(eqx.Module):
    """Which items are used, and the vectors of all items' texts.

    Attributes:
        text: vectors of texts, zeros for an item without a text.
        used: items with training events.
        unused: valid items without training events.
    """

    text: Float[Array, "cluster place encoding"]
    used: Bool[Array, "cluster place"]
    unused: Bool[Array, "cluster place"]

    @staticmethod
    def of(
        dataset: Dataset, vectors: Float[np.ndarray, "cluster place encoding"]
    ) -> "ColdItems":
        """Returns the cold items of a dataset, not yet on a mesh.

        Args:
            dataset: its training events say which items are used.
            vectors: the vectors of the items' texts.
        """
        used, valid = dataset.item_counts > 0, dataset.item_valid
        return ColdItems(
            jnp.asarray(vectors), jnp.asarray(used), jnp.asarray(valid & ~used)
        )

    def without_unused(self, frozen: EqIDs) -> EqIDs:
        """Returns the frozen part of a model that masks unused items."""
        valid = frozen.softmax.valid & ~self.unused
        return eqx.tree_at(lambda m: m.softmax.valid, frozen, valid)

    def filled(self, state: State) -> State:
        """Returns a state whose unused items copy the most similar used ones.

        Items without a text, and items in a cluster without a used item, keep their
        vectors.
        """
        return eqx.tree_at(lambda s: s.params, state, _filled(state.params, self))


@jax.jit
def _filled(params: EqIDs, items: ColdItems) -> EqIDs:
    similar = per_shard(_most_similar, (), items.text, items.used, items.unused)

    def copied(rows: Float[Array, "cluster place *width"]) -> Array:
        return per_shard(_rows_at, (), rows, similar)

    def tables(params: EqIDs) -> list[PyTree]:
        softmax = params.softmax
        found = [softmax.table, softmax.bias, params.input_table]
        return [table for table in found if table is not None]

    return eqx.tree_at(tables, params, [copied(rows) for rows in tables(params)])


def _most_similar(
    _: tuple[()],
    text: Float[Array, "cluster place encoding"],
    used: Bool[Array, "cluster place"],
    unused: Bool[Array, "cluster place"],
) -> Int[Array, "cluster place"]:
    """The place whose row each place copies; for most items, their own."""

    def of_cluster(one: tuple[Array, Array, Array]) -> Array:
        text, used, unused = one
        length = jnp.linalg.norm(text, axis=-1, keepdims=True)
        text = text / jnp.maximum(length, 1e-9)

        def nearest(one: Float[Array, " encoding"]) -> Int[Array, ""]:
            return jnp.where(used, text @ one, -jnp.inf).argmax()

        found = jax.lax.map(nearest, text, batch_size=_ROWS)
        copies = unused & text.any(axis=-1) & used.any()
        return jnp.where(copies, found, jnp.arange(len(used)))

    # Some rows at a time: all cosines at once would take many times the memory of the
    # tables.
    return jax.lax.map(of_cluster, (text, used, unused))


def _rows_at(
    _: tuple[()],
    rows: Float[Array, "cluster place *width"],
    place: Int[Array, "cluster place"],
) -> Float[Array, "cluster place *width"]:
    return jax.vmap(lambda rows, place: rows[place])(rows, place)
