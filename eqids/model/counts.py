"""Predictions by counting: which items came soon after the last items of a history.

The counts are a first-order Markov chain (`eqids.data.successors`). Their prediction is
mixed with that of the softmax (`eqids.model.mixture`). A gate decides how much; it is
fitted to held-out events, because the counts contain those of training.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eqids.config import MARKOV_ORDER
from eqids.config.slots import cluster_of, place_of
from eqids.model.mixture import NO_SLOT, Mixture
from sharding import lookup, per_shard

FEATURES = ("one", "log length", "log counts")
"""What the gate depends on, see `SuccessorCounts.features`."""


class Recent(eqx.Module):
    """The end of every query's history.

    Attributes:
        slot: the last items, newest first; -1 where the history has fewer.
        length: number of items that the model sees of the history.
    """

    slot: Int[Array, "query recent"]
    length: Int[Array, " query"]

    @staticmethod
    def of(
        items: Int[Array, "batch seq"],
        segment: Int[Array, "batch seq"],
        position: Int[Array, " batch"],
    ) -> "Recent":
        """Returns the items up to one position of each row, within its segment.

        Args:
            items: slots; -1 at positions of text.
            segment: a number for each history of a row.
            position: the position of the query in each row.
        """
        found: Recent = per_shard(_recent, (), items, segment, position)
        return found


class SuccessorCounts(eqx.Module):
    """The successors of every item, and the gate between counts and softmax.

    All but the gate come from a dataset and are no part of a checkpoint.

    Attributes:
        slot: the successors of each place.
        weight: the share of each; a row sums to 1, or to 0 for an item without
            successors; 0 is padding.
        total: the sum of the counts of each place.
        gate: the weights of the features, whose sum is the log odds of the counts.
    """

    slot: Int[Array, "cluster place successor"]
    weight: Float[Array, "cluster place successor"]
    total: Float[Array, "cluster place"]
    gate: Float[Array, " feature"]

    @staticmethod
    def zeros(num_clusters: int, cluster_size: int, width: int) -> "SuccessorCounts":
        """Returns counts of nothing, for their shapes, with a gate of even odds."""
        shape = num_clusters, cluster_size, width
        return SuccessorCounts(
            jnp.zeros(shape, jnp.int32),
            jnp.zeros(shape),
            jnp.zeros(shape[:2]),
            jnp.zeros(len(FEATURES)),
        )

    def mixture(self, recent: Recent) -> Mixture:
        """Returns how the counts change the probabilities of queries.

        Where no recent item has successors, the softmax alone predicts.
        """
        slot, log_prob = self.predicted(recent)
        odds = self.features(recent) @ self.gate
        counted = jnp.any(log_prob > -jnp.inf, axis=1)
        log_rest = jnp.where(counted, jax.nn.log_sigmoid(-odds), 0.0)
        return Mixture(slot, odds[:, None] + log_prob, log_rest)

    def predicted(
        self, recent: Recent
    ) -> tuple[Int[Array, "query support"], Float[Array, "query support"]]:
        """Returns the distinct successors of recent items, with their log P_counts.

        P_counts is the mean of the shares after each recent item that has successors,
        with weight 1 / distance. It sums to 1, or to 0 if there are none.

        Returns:
            Slots, padded with `NO_SLOT`; and float32 log P_counts, padded with -inf.
        """
        at = self._places(recent)
        distance = jnp.arange(1, recent.slot.shape[1] + 1)
        known = (recent.slot >= 0) & (lookup(self.total, *at) > 0)
        weight = jnp.where(known, 1.0 / distance, 0.0)
        weight /= jnp.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
        prob = weight[..., None] * lookup(self.weight, *at)
        found: tuple[Array, Array] = per_shard(
            _distinct_sums, (), lookup(self.slot, *at), prob
        )
        return found

    def features(self, recent: Recent) -> Float[Array, "query feature"]:
        """Returns 1, the log of the history's length, and of its items' counts."""
        total = jnp.where(
            recent.slot >= 0, lookup(self.total, *self._places(recent)), 0
        )
        length = recent.length.astype(jnp.float32)
        return jnp.stack(
            [jnp.ones_like(length), jnp.log1p(length), jnp.log1p(total.sum(axis=1))],
            axis=1,
        )

    def _places(self, recent: Recent) -> tuple[Array, Array]:
        slot, size = jnp.maximum(recent.slot, 0), self.total.shape[1]
        return cluster_of(slot, size), place_of(slot, size)


def _recent(
    _: tuple[()],
    items: Int[Array, "batch seq"],
    segment: Int[Array, "batch seq"],
    position: Int[Array, " batch"],
) -> Recent:
    here = jnp.arange(items.shape[1])
    own = jnp.take_along_axis(segment, position[:, None], axis=1)
    seen = (segment == own) & (here <= position[:, None]) & (items >= 0)
    num = min(MARKOV_ORDER, len(here))
    last, at = jax.lax.top_k(jnp.where(seen, here, -1), num)
    slot = jnp.where(last >= 0, jnp.take_along_axis(items, at, axis=1), -1)
    slot = jnp.pad(slot, ((0, 0), (0, MARKOV_ORDER - num)), constant_values=-1)
    return Recent(slot, seen.sum(axis=1, dtype=jnp.int32))


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
