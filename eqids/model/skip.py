"""The skip connection around Llama: an item's own vector is part of the query.

What someone used last says most about what they use next, and similar items have
similar vectors. Adapters cut the residual stream on which SASRec (Kang & McAuley 2018)
carries an item's vector to the output; this connection leads it around them.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharding import per_shard


class Skip(eqx.Module):
    """Adds the normalised vector of the last item, times a learned scale."""

    scale: Float[Array, ""]

    def __init__(
        self,
        parts: Sequence[Float[Array, "cluster place _columns"]],
        valid: Bool[Array, "cluster place"],
    ):
        """Starts where an item's own logit is about 1.

        Args:
            parts: the item vectors to start from, as blocks of their columns.
            valid: which places hold an item.
        """
        length = jnp.sqrt(sum(jnp.sum(part * part, axis=-1) for part in parts))
        mean = jnp.mean(length, where=valid) if valid.size else jnp.ones(())
        self.scale = 1.0 / jnp.maximum(mean, 1e-3)

    def __call__(
        self,
        query: Float[Array, "batch seq item_width"],
        items: Float[Array, "batch seq item_width"],
        slot: Int[Array, "batch seq"],
    ) -> Float[Array, "batch seq item_width"]:
        """Returns queries with the vectors of the last items added.

        Args:
            query: what Llama makes of the sequence.
            items: the vector of the last item at each position.
            slot: the slots of these items; nothing is added where it is negative.
        """
        x = items.astype(jnp.float32)
        squares = jnp.sum(x * x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(squares + 1e-12) * self.scale
        return query + jnp.where(slot[..., None] >= 0, x, 0.0).astype(query.dtype)


def last_items(
    items: Int[Array, "batch seq"], segment: Int[Array, "batch seq"]
) -> Int[Array, "batch seq"]:
    """Returns the slot of the last item up to each position of its segment, or -1.

    At an item's own position that is the item; text follows its item.

    Args:
        items: slots; -1 at positions of text.
        segment: a number for each packed history of a row.
    """

    def local(_: tuple[()], items: Array, segment: Array) -> Array:
        index = jnp.arange(items.shape[1], dtype=jnp.int32)
        at = jax.lax.cummax(jnp.where(items >= 0, index, 0), axis=1)
        found, where = (
            jnp.take_along_axis(x, at, axis=1) for x in (items, segment)
        )  # fmt: skip
        return jnp.where(where == segment, found, -1)

    return per_shard(local, (), items, segment)
