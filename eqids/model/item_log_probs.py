"""Log-probabilities of some items, as a whole model gives them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqids.model.eqids import EqIDs
from eqids.model.scores import log_probs_of_slots


def log_probs(
    model: EqIDs,
    query: Float[Array, "batch item_width"],
    recent: Int[Array, "batch recent"],
    slot: Int[Array, " some"],
) -> Float[Array, "batch some"]:
    """Returns the log-probabilities of the same items for all queries.

    Args:
        model: the model; counts are mixed in.
        query: from `EqIDs.queries_at`, lifted.
        recent: from `recent_items`, at the position of each query.
        slot: slots of the items.
    """
    found = log_probs_of_slots(model.softmax, query, slot)
    mixture = model.mixture(query, recent)
    if mixture is None:
        return found
    slots = jnp.broadcast_to(slot, found.shape)
    raised = jax.vmap(mixture.raised_one, in_axes=1, out_axes=1)(found, slots)
    valid = model.softmax.valid.reshape(-1)[slot]
    return jnp.where(valid, raised + mixture.log_rest[:, None], -jnp.inf)
