"""Queries of histories whose first positions were computed before."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from eqids.model.attention import PrefixCache
from eqids.model.batch import Batch, at_position
from eqids.model.eqids import EqIDs


def continued_queries(
    model: EqIDs,
    batch: Batch,
    last: Int[Array, " batch"],
    recent: Int[Array, "batch recent"],
    before: PrefixCache,
    num_before: Int[Array, " batch"],
    prompt: PrefixCache | None,
    *,
    dtype: DTypeLike,
) -> tuple[Float[Array, "batch item_width"], PrefixCache]:
    """Returns what `EqIDs.queries_at` would return for whole histories, and `lifted`.

    Args:
        model: the model.
        batch: the ends of histories, one a row; `position` counts from the beginning.
        last: the position of the query in each row.
        recent: the last items of each whole history, as from `recent_items`.
        before: keys and values of the positions before, a row for each row.
        num_before: how many of them are real.
        prompt: the keys and values of what all histories begin with, if rows lack it.
        dtype: the dtype of activations.

    Returns:
        The queries, and the keys and values of the rows' positions.
    """
    seen = jnp.arange(before.length) < num_before[:, None]
    position = batch.position
    if prompt is not None:
        before = prompt.for_rows(len(position)).followed_by(before)
        seen = jnp.pad(seen, ((0, 0), (prompt.length, 0)), constant_values=True)
        position = position + prompt.length
    x = model.embed(batch, model.item_vectors(batch.items, dtype))
    hidden, found = model.llama.continued(x, position, before, seen)
    query = model.output_adapter(at_position(hidden, last))
    if model.skip is not None:
        newest = recent[:, :1]
        query = model.skip(query, model.item_vectors(newest, dtype), newest)
    return model.lifted(query[:, 0], recent), found
