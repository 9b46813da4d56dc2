"""Predictions by counting: which items came soon after the last items of a history.

The counts are a first-order Markov chain (`eqids.data.successors`). Most of them are of
few events, so the model says which of the counted items are likely: their shares are
multiplied by the square root of its probabilities. The result is mixed with the softmax
(`eqids.model.mixture`). The gate says how much; it is chosen on held-out events,
because the counts contain those of training.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqids.config import MARKOV_ORDER
from eqids.config.slots import cluster_of, place_of
from eqids.model.mixture import NO_SLOT, Mixture
from eqids.model.scores import SoftmaxArrays, scores_of_slots
from sharding import lookup, per_shard

MODEL_POWER = 0.5
"""The power of the model's probability in the shares of counted items. The square root
is the geometric mean of counts and model (docs/counts.md)."""


class SuccessorCounts(eqx.Module):
    """The successors of every item, and the gate between counts and softmax.

    All but the gate come from a dataset and are no part of a checkpoint.

    Attributes:
        slot: the successors of each place.
        weight: the share of each; a row sums to 1, or to 0 for an item without
            successors; 0 is padding.
        gate: λ, the weight of the counts in the mixture, from 0 to below 1.
    """

    slot: Int[Array, "cluster place successor"]
    weight: Float[Array, "cluster place successor"]
    gate: Float[Array, ""]

    @staticmethod
    def zeros(num_clusters: int, cluster_size: int, width: int) -> "SuccessorCounts":
        """Returns counts of nothing, for their shapes, with no weight."""
        shape = num_clusters, cluster_size, width
        return SuccessorCounts(
            jnp.zeros(shape, jnp.int32),
            jnp.zeros(shape),
            jnp.zeros(()),
        )

    def mixture(
        self,
        recent: Int[Array, "query recent"],
        query: Float[Array, "query item_width"],
        softmax: SoftmaxArrays,
    ) -> Mixture:
        """Returns how the counts change the probabilities of queries.

        Where no recent item has successors, the softmax alone predicts.

        Args:
            recent: from `recent_items`.
            query: the queries.
            softmax: the softmax that the counts are mixed with.
        """
        slot, log_prob = self.predicted(recent, query, softmax)
        log_rest = jnp.log1p(-self.gate)
        counted = jnp.any(log_prob > -jnp.inf, axis=1)
        lift = jnp.log(self.gate) - log_rest + log_prob
        return Mixture(slot, lift, jnp.where(counted, log_rest, 0.0))

    def predicted(
        self,
        recent: Int[Array, "query recent"],
        query: Float[Array, "query item_width"],
        softmax: SoftmaxArrays,
    ) -> tuple[Int[Array, "query support"], Float[Array, "query support"]]:
        """Returns the distinct successors of recent items, with their log P_counts.

        P_counts is proportional to the mean of the shares after each recent item, with
        weight 1 / distance, times `MODEL_POWER` of the model's P(cluster) exp(logit).
        It sums to 1, or to 0 if no recent item has successors. The normalizer of an
        item's cluster is left out, because it takes all items of the cluster.

        Args:
            recent: from `recent_items`.
            query: the queries.
            softmax: the softmax.

        Returns:
            Slots, padded with `NO_SLOT`; and float32 log P_counts, padded with -inf.
        """
        size = self.slot.shape[1]
        real = jnp.maximum(recent, 0)
        cluster, place = cluster_of(real, size), place_of(real, size)
        distance = jnp.arange(1, recent.shape[1] + 1)
        weight = jnp.where(recent >= 0, 1.0 / distance, 0.0)
        share = weight[..., None] * lookup(self.weight, cluster, place)
        slot = lookup(self.slot, cluster, place)
        score = MODEL_POWER * scores_of_slots(softmax, query, slot)
        score = jnp.where(share > 0, score, -jnp.inf)
        most = score.max(axis=(1, 2), keepdims=True)
        share *= jnp.exp(score - jnp.where(most > -jnp.inf, most, 0.0))
        share /= jnp.maximum(share.sum(axis=(1, 2), keepdims=True), 1e-30)
        found: tuple[Array, Array] = per_shard(_distinct_sums, (), slot, share)
        return found


def recent_items(
    items: Int[Array, "batch seq"],
    segment: Int[Array, "batch seq"],
    position: Int[Array, " batch"],
) -> Int[Array, "batch recent"]:
    """Returns the last items up to one position of each row, within its segment.

    Args:
        items: slots; -1 at positions of text.
        segment: a number for each history of a row.
        position: the position of the query in each row.

    Returns:
        `MARKOV_ORDER` slots, newest first; -1 where the history has fewer.
    """

    def local(_: tuple[()], items: Array, segment: Array, position: Array) -> Array:
        here = jnp.arange(items.shape[1])
        own = jnp.take_along_axis(segment, position[:, None], axis=1)
        seen = (segment == own) & (here <= position[:, None]) & (items >= 0)
        num = min(MARKOV_ORDER, len(here))
        last, at = jax.lax.top_k(jnp.where(seen, here, -1), num)
        slot = jnp.where(last >= 0, jnp.take_along_axis(items, at, axis=1), -1)
        more = ((0, 0), (0, MARKOV_ORDER - num))
        return jnp.pad(slot, more, constant_values=-1)

    return per_shard(local, (), items, segment, position)


def _distinct_sums(
    _: tuple[()],
    slot: Int[Array, "query recent successor"],
    prob: Float[Array, "query recent successor"],
) -> tuple[Int[Array, "query support"], Float[Array, "query support"]]:
    """Sums the probabilities of equal slots, each of which is once in a row at most."""
    most = slot.shape[1]
    slot = jnp.where(prob > 0, slot, NO_SLOT).reshape(len(slot), -1)
    slot, prob = jax.lax.sort((slot, prob.reshape(slot.shape)), num_keys=1)
    more, num = ((0, 0), (0, most - 1)), slot.shape[1]
    slots, probs = jnp.pad(slot, more, constant_values=NO_SLOT), jnp.pad(prob, more)
    total = jnp.zeros_like(prob)
    for i in range(most):
        equal = slots[:, i : i + num] == slot
        total += jnp.where(equal, probs[:, i : i + num], 0.0)
    again = jnp.pad(slot[:, 1:] == slot[:, :-1], ((0, 0), (1, 0)))
    new = ~again & (slot < NO_SLOT)
    return jnp.where(new, slot, NO_SLOT), jnp.where(new, jnp.log(total), -jnp.inf)
