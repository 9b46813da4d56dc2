"""The mixture P = (1 - λ) P_softmax + λ P_counts, exact, without scores of all items.

Counts give a query few items a probability, its support. So log P of an item is a term
of the query alone, log(1 - λ), plus the item's *score*: its log P_softmax, raised to

    log(P_softmax + P_counts λ / (1 - λ))

if it is in the support. Ranks and searches compare scores as they compare log P_softmax
without counts.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqids.config.slots import cluster_of

NO_SLOT = np.iinfo(np.int32).max
"""Pads slots of a support."""


class Mixture(eqx.Module):
    """What counts add to the softmax, for each query.

    Attributes:
        slot: the support, each slot once; numbers that are no slots are padding.
        lift: log(P_counts λ / (1 - λ)) of these slots; -inf for padding.
        log_rest: log(1 - λ); 0 for a query without a support.
    """

    slot: Int[Array, "*query support"]
    lift: Float[Array, "*query support"]
    log_rest: Float[Array, "*query"]

    def log_probs(
        self, log_prob: Float[Array, "query slot"]
    ) -> Float[Array, "query slot"]:
        """Returns log P of all slots, given the softmax's."""
        return self.log_rest[:, None] + self.raised(log_prob.T, 0).T

    def raised(
        self, log_prob: Float[Array, "some query"], first: Int[Array, ""] | int
    ) -> Float[Array, "some query"]:
        """Returns the scores of consecutive slots, given their log P_softmax.

        Args:
            log_prob: log P_softmax of slots.
            first: the first of these slots.
        """
        at = self._inside(first, len(log_prob)), jnp.arange(log_prob.shape[1])[:, None]
        own = log_prob.at[at].get(mode="fill", fill_value=-jnp.inf)
        return log_prob.at[at].set(jnp.logaddexp(own, self.lift), mode="drop")

    def raised_one(
        self, log_prob: Float[Array, " query"], slot: Int[Array, " query"]
    ) -> Float[Array, " query"]:
        """Returns the score of one slot of each query, given its log P_softmax."""
        own = jnp.where(self.slot == slot[:, None], self.lift, -jnp.inf)
        return jnp.logaddexp(log_prob, own.max(axis=1, initial=-jnp.inf))

    def bounds(
        self, log_prob: Float[Array, "query cluster"], cluster_size: int
    ) -> Float[Array, "query cluster"]:
        """Returns an upper bound of the scores of each cluster's items.

        Args:
            log_prob: log P_softmax of clusters, which is such a bound without counts.
            cluster_size: places in a cluster.
        """
        slot = self._inside(0, log_prob.shape[1] * cluster_size)
        row = jnp.arange(len(slot))[:, None]
        most = jnp.full_like(log_prob, -jnp.inf)
        most = most.at[row, cluster_of(slot, cluster_size)].max(self.lift, mode="drop")
        return jnp.logaddexp(log_prob, most)

    def counted_from(self, first: Int[Array, ""] | int) -> "Mixture":
        """Returns the same with slots counted from a shard's first."""
        slot = jnp.where(self.slot == NO_SLOT, NO_SLOT, self.slot - first)
        return Mixture(slot, self.lift, self.log_rest)

    def _inside(
        self, first: Int[Array, ""] | int, size: int
    ) -> Int[Array, "*query support"]:
        """Slots counted from `first`; `size` for those that are not among the next."""
        slot = self.slot - first
        return jnp.where((slot >= 0) & (slot < size), slot, size)
