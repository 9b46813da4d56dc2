"""The skip connection around Llama: an item's own vector is part of the query.

What someone used last says most about what they use next, and similar items have
similar vectors. Adapters cut the residual stream on which SASRec (Kang & McAuley 2018)
carries an item's vector to the output; this connection leads it around them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import cluster_of, place_of
from eqids.model.item_vectors import TEXT_STD
from sharding import lookup, per_shard

LEARNED_LOGIT, TEXT_LOGIT = 1.0, 2.0
"""An item's own logit at the start, by its learned and by its text columns. The latter
do not grow in training, and start where they rank best (docs/quality.md)."""


class Skip(eqx.Module):
    """Adds the normalised vector of the last item, times a learned scale.

    Text columns are normalised by themselves and have a scale of their own. Otherwise
    the learned columns, which grow, would hide what the text says.

    Attributes:
        scale: of the learned columns.
        text_scale: of the text columns, if there are any.
        text_lift: more of the text, where the model answers: an item's own logit by it.
            Training needs texts less than new events do, because learned columns know
            the training events by heart, so `eqids.fit.gate` chooses the lift.
    """

    scale: Float[Array, ""]
    text_scale: Float[Array, ""] | None
    text_lift: Float[Array, ""] | None
    learned_width: int = eqx.field(static=True)

    def __init__(
        self,
        learned: Float[Array, "cluster place learned_width"],
        text: Float[Array, "cluster place text_width"] | None,
        valid: Bool[Array, "cluster place"],
    ):
        """Starts at the logits above.

        Args:
            learned: the learned columns to start from.
            text: the text columns, if there are any.
            valid: which places hold an item.
        """
        self.scale = LEARNED_LOGIT / _mean_length(learned, valid)
        self.text_scale = self.text_lift = None
        if text is not None:
            self.text_lift = jnp.zeros(())
            has_text = valid & jnp.any(text != 0, axis=-1)
            self.text_scale = TEXT_LOGIT / _mean_length(text, has_text)
        self.learned_width = learned.shape[-1]

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
        if self.text_scale is None:
            x = _direction(x) * self.scale
        else:
            learned, text = jnp.split(x, [self.learned_width], axis=-1)
            parts = _direction(learned) * self.scale, _direction(text) * self.text_scale
            x = jnp.concatenate(parts, axis=-1)
        return query + jnp.where(slot[..., None] >= 0, x, 0.0).astype(query.dtype)

    def lifted(
        self,
        query: Float[Array, "query item_width"],
        text: Float[Array, "cluster place text_width"],
        slot: Int[Array, " query"],
    ) -> Float[Array, "query item_width"]:
        """Returns queries with more of the last items' texts.

        Args:
            query: the queries.
            text: the text columns of all items.
            slot: the last items; nothing is added where it is negative.
        """
        assert self.text_lift is not None, "a model without text columns"
        _, size, width = text.shape
        real = jnp.maximum(slot, 0)
        rows = lookup(text, cluster_of(real, size), place_of(real, size))
        more = _direction(jnp.where(slot[:, None] >= 0, rows, 0.0))
        more *= self.text_lift / (TEXT_STD * width**0.5)
        return query.at[:, self.learned_width :].add(more.astype(query.dtype))


def _mean_length(
    vectors: Float[Array, "cluster place _columns"], which: Bool[Array, "cluster place"]
) -> Float[Array, ""]:
    """The mean length of some of the vectors, but no less than .001."""
    total = jnp.sum(jnp.linalg.norm(vectors, axis=-1), where=which)
    return jnp.maximum(total / jnp.maximum(which.sum(), 1), 1e-3)


def _direction(x: Float[Array, "*axes columns"]) -> Float[Array, "*axes columns"]:
    """Vectors of length 1; zeros stay zeros."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


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
