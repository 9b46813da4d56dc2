"""Items with similar vectors."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import cluster_of, place_of
from eqids.model.best_first import best_of
from eqids.model.item_vectors import joined
from eqids.model.scores import SoftmaxArrays, over_chunks


class Nearest(NamedTuple):
    """Items, nearest first; equal ones by slot.

    Attributes:
        slots: padded with -1.
        cosines: float32, padded with -inf.
    """

    slots: Int[Array, "query k"]
    cosines: Float[Array, "query k"]


def nearest_items(
    softmax: SoftmaxArrays, slot: Int[Array, " query"], k: int
) -> Nearest:
    """Returns the items whose vectors have the largest cosine with those of others.

    An item is not near to itself. The cosine with a vector of zeros is 0. No mesh
    splits the arrays.

    Args:
        softmax: has the vectors, text columns included.
        slot: items; they may be retired.
        k: number of items.
    """
    cluster_size = softmax.valid.shape[1]
    at = cluster_of(slot, cluster_size), place_of(slot, cluster_size)
    text = None if softmax.text is None else softmax.text[at]
    query = _directions(joined(softmax.table[at], text, jnp.float32))

    def step(first: Array, new: Bool[Array, " chunk"], found: Nearest) -> Nearest:
        size = len(new)

        def cut(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, first, size)

        text = None if softmax.text is None else cut(softmax.text)
        vectors = _directions(joined(cut(softmax.table), text, jnp.float32))
        cosine = jnp.einsum("qw,crw->qcr", query, vectors).reshape(len(query), -1)
        slots = first * cluster_size + jnp.arange(cosine.shape[1], dtype=jnp.int32)
        may = (cut(softmax.valid) & new[:, None]).reshape(-1)
        may = may & (slots != slot[:, None])
        cosine = jnp.where(may, cosine, -jnp.inf)
        best, place = lax.top_k(cosine, min(k, len(slots)))
        chosen = jnp.where(best > -jnp.inf, slots[place], -1)
        cosines = jnp.concatenate([found.cosines, best], axis=1)
        slots = jnp.concatenate([found.slots, chosen], axis=1)
        cosines, slots = best_of(cosines, slots, k)
        return Nearest(slots, cosines)

    none = jnp.full((len(slot), k), -jnp.inf), jnp.full((len(slot), k), -1, jnp.int32)
    return over_chunks(step, softmax, len(slot), Nearest(none[1], none[0]))


def _directions(
    x: Float[Array, "*axes item_width"],
) -> Float[Array, "*axes item_width"]:
    """Vectors of length 1; zeros stay zeros."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length > 0, length, 1.0)
