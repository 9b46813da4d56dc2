"""Exact ranks of targets in the full catalog, without `[user, slot]` scores.

Two passes score clusters in chunks: the first finds the normalizers and the target's
score, the second counts the items above it. Both score a chunk by the same program, so
that equal items tie exactly (items that counts raise may differ by rounding). If a mesh
splits the clusters, every shard counts in its own, and the counts are summed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqids.config.slots import cluster_of, slot_of
from eqids.model.mixture import Mixture
from eqids.model.scores import (
    SoftmaxArrays,
    cluster_log_probs,
    item_logits,
    log_normalizer,
    on_shards,
    over_chunks,
)
from sharding import TableShards


def ranks(
    softmax: SoftmaxArrays,
    hidden: Float[Array, "user item_width"],
    target: Int[Array, " user"],
    seen: Int[Array, "user seen"],
    seen_by: Int[Array, "user seen"] | None = None,
    mixture: Mixture | None = None,
) -> Float[Array, "user 3"]:
    """Returns each target's rank with seen items filtered, unfiltered, and its log P.

    The rank is 1 + the number of items strictly above + half of those that tie with
    the target, so that the order of equal scores does not matter. A NaN score ranks
    above the target; a NaN target ranks last.

    Args:
        softmax: the hierarchical softmax.
        hidden: queries; users may be split over the mesh.
        target: slots.
        seen: slots of the users' histories; numbers that are no slots are padding. If
            they are filtered, a target that its user has seen is missed (rank inf).
        seen_by: the user of each of `seen`, by default the user of its row. With it,
            long lists can use the unused ends of short rows.
        mixture: what counts add to the softmax, or none.
    """
    number = None if seen_by is None else jnp.arange(len(target), dtype=jnp.int32)
    rows = target, seen, seen_by, number, mixture
    return on_shards(_local_ranks, softmax, hidden, *rows)


class _Seen(NamedTuple):
    """Distinct pairs of a slot and the user who has seen it."""

    slot: Int[Array, " pair"]
    """The slot, counted from the shard's first."""
    user: Int[Array, " pair"]
    """The user's row among those that the shard ranks; out of range for other users."""

    def counts(self, what: Bool[Array, " pair"], like: Array) -> Int[Array, " user"]:
        """Returns how many of these pairs each user has; `like` gives the length."""
        none = jnp.zeros_like(like, jnp.int32)
        return none.at[self.user].add(what.astype(jnp.int32), mode="drop")


class _Own(NamedTuple):
    """The results of the first pass."""

    total: Float[Array, "cluster user"]
    """Normalizers of all clusters."""
    logit: Float[Array, " user"]
    """Score of the target; 0 if another shard has it."""


def _local_ranks(
    shards: TableShards,
    softmax: SoftmaxArrays,
    hidden: Float[Array, "user item_width"],
    target: Int[Array, " user"],
    seen: Int[Array, "user seen"],
    seen_by: Int[Array, "user seen"] | None,
    number: Int[Array, " user"] | None,
    mixture: Mixture | None,
) -> Float[Array, "user 3"]:
    """One shard's part: counts in its clusters, for the users of all shards."""
    num_clusters, cluster_size = softmax.valid.shape
    first_slot = slot_of(shards.first_block(num_clusters), 0, cluster_size)
    query = shards.gather(hidden)
    slot = shards.gather(target) - first_slot
    log_p = cluster_log_probs(shards, softmax, query).T
    own = _own(softmax, query, slot, log_p)
    here = (slot >= 0) & (slot < num_clusters * cluster_size)
    at = jnp.where(here, cluster_of(slot, cluster_size), 0), jnp.arange(len(slot))
    mine = log_p[at] + (own.logit - own.total[at])
    raises = None
    if mixture is not None:
        raises = jax.tree.map(shards.gather, mixture).counted_from(first_slot)
        mine = raises.raised_one(mine, slot)
    mine = jnp.where(here, mine, 0.0)
    score = shards.sum_over_blocks(mine)
    others = _distinct(*_pairs(shards, seen, seen_by, number))
    others = others._replace(slot=others.slot - first_slot)
    joint = _Joint(softmax, query, log_p, own.total, raises)
    counts = _counts(joint, others, slot, score)
    missed = others.counts(others.slot == slot.at[others.user].get(mode="clip"), score)
    counts = jnp.concatenate([counts, missed[:, None]], axis=1)
    above, ties, seen_above, seen_ties, missed = shards.give_back(counts).T
    ties = ties - 1
    filtered = _rank(above - seen_above, ties - seen_ties)
    filtered = jnp.where(missed > 0, jnp.inf, filtered)
    log_prob = shards.give_back(mine)
    if mixture is not None:
        log_prob += mixture.log_rest
    return jnp.stack([filtered, _rank(above, ties), log_prob], axis=1)


def _rank(above: Int[Array, " user"], ties: Int[Array, " user"]) -> Array:
    return 1.0 + above + 0.5 * jnp.maximum(ties, 0)


def _pairs(
    shards: TableShards,
    seen: Int[Array, "user seen"],
    seen_by: Int[Array, "user seen"] | None,
    number: Int[Array, " user"] | None,
) -> tuple[Int[Array, " pair"], Int[Array, " pair"]]:
    """Seen slots, and the row of the user who has seen each."""
    if seen_by is None or number is None:
        seen = shards.gather(seen)
        row = lax.broadcasted_iota(jnp.int32, seen.shape, 0)
        return seen.reshape(-1), row.reshape(-1)
    # The row of a pair may belong to a user whom another shard ranks.
    slot, user = (shards.every_row(x).reshape(-1) for x in (seen, seen_by))
    own, num_users = shards.gather(number), len(shards.every_row(number))
    row = jnp.full_like(user, len(own), shape=num_users)
    row = row.at[own].set(jnp.arange(len(own), dtype=row.dtype))
    return slot, row[user]


def _distinct(slot: Int[Array, " pair"], user: Int[Array, " pair"]) -> _Seen:
    """Keeps each pair once; repeats become padding."""
    slot, user = lax.sort((slot, user), num_keys=2)
    again = (slot[1:] == slot[:-1]) & (user[1:] == user[:-1])
    unwanted = jnp.pad(again, (1, 0)) | (slot < 0)
    return _Seen(jnp.where(unwanted, np.iinfo(slot.dtype).max, slot), user)


def _own(
    softmax: SoftmaxArrays,
    query: Float[Array, "user item_width"],
    slot: Int[Array, " user"],
    log_p: Float[Array, "cluster user"],
) -> _Own:
    cluster_size, user = softmax.valid.shape[1], jnp.arange(len(slot))

    def step(first: Array, new: Array, own: _Own) -> _Own:
        logits = item_logits(softmax, first, len(new), query)
        place, inside = _places(slot, first * cluster_size, len(new) * cluster_size)
        logit = logits.reshape(-1, len(slot))[place, user]
        total = log_normalizer(logits)
        return _Own(
            lax.dynamic_update_slice_in_dim(own.total, total, first, axis=0),
            jnp.where(inside, logit, own.logit),
        )

    start = _Own(jnp.zeros_like(log_p), jnp.zeros_like(log_p[0]))
    return over_chunks(step, softmax, len(slot), start)


class _Joint(NamedTuple):
    """What the second pass computes the scores of items from."""

    softmax: SoftmaxArrays
    query: Float[Array, "user item_width"]
    log_p: Float[Array, "cluster user"]
    total: Float[Array, "cluster user"]
    mixture: Mixture | None

    def scores(
        self, first: Int[Array, ""], size: int, target: Array, score: Array
    ) -> Float[Array, "chunk place user"]:
        """Returns the scores of items of consecutive clusters.

        Args:
            first: the first cluster.
            size: the number of clusters.
            target: each user's target, counted from the shard's first slot.
            score: the score of the target.
        """
        logits = item_logits(self.softmax, first, size, self.query)
        up, down = (
            lax.dynamic_slice_in_dim(x, first, size) for x in (self.log_p, self.total)
        )
        joint = up[:, None] + (logits - down[:, None])
        if self.mixture is None:
            return joint
        start = first * self.softmax.valid.shape[1]
        raised = self.mixture.raised(joint.reshape(-1, len(score)), start)
        # The score of the target was computed by another program, which may round it
        # to a neighbour.
        place, inside = _places(target, start, len(raised))
        at = jnp.where(inside, place, len(raised)), jnp.arange(len(score))
        return raised.at[at].set(score, mode="drop").reshape(joint.shape)


def _counts(
    joint: _Joint,
    seen: _Seen,
    target: Int[Array, " user"],
    score: Float[Array, " user"],
) -> Int[Array, "user 4"]:
    """Returns the number of items above, of equal ones, and of those of each seen."""
    cluster_size = joint.softmax.valid.shape[1]
    # Filtering never improves the rank of a NaN target.
    helps = ~jnp.isnan(score).at[seen.user].get(mode="clip")

    def step(first: Array, new: Array, counts: Array) -> Array:
        size = len(new)
        scores = joint.scores(first, size, target, score)
        # A score is above unless it is at most the target's, so a NaN is above.
        above = ~(scores <= score) & new[:, None, None]
        ties = (scores == score) & new[:, None, None]
        place, inside = _places(seen.slot, first * cluster_size, size * cluster_size)
        at = place, jnp.minimum(seen.user, len(score) - 1)
        picked = (x.reshape(-1, len(score))[at] & inside & helps for x in (above, ties))
        found = [jnp.sum(x, axis=(0, 1)) for x in (above, ties)]
        found += [seen.counts(x, score) for x in picked]
        return counts + jnp.stack(found, axis=1)

    none = jnp.zeros_like(joint.total, jnp.int32, shape=(len(score), 4))
    return over_chunks(step, joint.softmax, len(score), none)


def _places(
    slot: Int[Array, "*axes"], first_slot: Int[Array, ""], size: int
) -> tuple[Int[Array, "*axes"], Bool[Array, "*axes"]]:
    """The indices of slots in a chunk, and whether they are in it."""
    place = slot - first_slot
    inside = (place >= 0) & (place < size)
    return jnp.where(inside, place, 0), inside
