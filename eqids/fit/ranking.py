"""Ranks of targets among scores of all slots, and the metrics of ranks.

`eqids.model.rank` ranks a model's items without computing `[user, slot]` scores. This
module serves baselines, which have these scores.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CUTOFFS = (1, 5, 10, 20, 50)


def ranks_of_scores(
    scores: Float[Array, "user slot"],
    target: Int[Array, " user"],
    seen: Int[Array, "user seen"],
    seen_by: Int[Array, "user seen"] | None = None,
) -> Float[Array, "user 2"]:
    """Returns each target's rank with seen items filtered, and unfiltered.

    The rank is 1 + the items strictly above + half of the ties, so that no order of
    equal scores can help or harm.

    Args:
        scores: the scores of every slot, -inf for a place without an item.
        target: slots.
        seen: slots of the users' histories, padded with slots out of range. With
            filtering, a target that its user has seen is missed (rank inf).
        seen_by: the user of each of `seen`, by default the one of its row.
    """
    row = seen_by
    if row is None:
        row = jnp.broadcast_to(jnp.arange(len(scores))[:, None], seen.shape)
    own = jnp.take_along_axis(scores, target[:, None], axis=1)

    def rank(scores: Array) -> Array:
        # Every score that is not <= the target's is above it, NaN included.
        above = jnp.sum(~(scores <= own), axis=1)
        ties = jnp.maximum(jnp.sum(scores == own, axis=1) - 1, 0)
        return 1.0 + above + 0.5 * ties

    left = scores.at[row, seen].set(-jnp.inf, mode="drop")
    missed = jnp.zeros(len(scores), bool).at[row].max(seen == target[row])
    filtered = jnp.where(missed, jnp.inf, rank(left))
    return jnp.stack([filtered, rank(scores)], axis=1)


def metrics(rank: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> Mapping[str, float]:
    """Returns the means over users of `user_metrics`."""
    found = user_metrics(rank, cutoffs)
    return {name: float(np.mean(values)) for name, values in found.items()}


def user_metrics(
    rank: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> Mapping[str, Float[np.ndarray, " user"]]:
    """Returns Recall@K, NDCG@K and MRR@K of each user.

    With one target a user, Recall@K is whether rank <= K, NDCG@K is
    1 / log2(1 + rank) if rank <= K and otherwise 0, and MRR@K is 1 / rank if rank <= K
    and otherwise 0.

    Args:
        rank: float [user], at least 1.
        cutoffs: the Ks.
    """
    out = {}
    for k in cutoffs:
        hit = (rank <= k).astype(np.float64)
        out[f"recall@{k}"] = hit
        out[f"ndcg@{k}"] = hit / np.log2(1.0 + rank)
        out[f"mrr@{k}"] = hit / rank
    return out
