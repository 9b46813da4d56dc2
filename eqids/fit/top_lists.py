"""The top lists of every user that a split evaluates, beside the ranks of targets."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from eqids.data import Dataset
from eqids.fit.baselines import Scorer
from eqids.fit.evaluation import MOST_USERS, Chunk, ChunkQueries, Ranker, Split, chunks
from eqids.model import EqIDs
from eqids.model.search import top_k
from sharding import Placement, replicated

LIST_LENGTH = 50
"""Items of a list, as many as the largest K of metrics."""

_NO_SLOT = np.iinfo(np.int32).max
_SCORES = 2**25
"""Scores of baselines in memory at a time."""


@dataclass(frozen=True, eq=False)
class TopLists:
    """The best items of each user, best first.

    Attributes:
        slots: int32 [user, k], padded with -1.
        log_probs: float32 [user, k], their log-probabilities, padded with -inf; None
            for lists of scores or of ranks alone.
    """

    slots: Int32[np.ndarray, "user k"]
    log_probs: Float32[np.ndarray, "user k"] | None = None


@dataclass(frozen=True, eq=False)
class UserPass:
    """What one pass over the users of a split finds; all metrics follow from it.

    Attributes:
        ranked: float64 [user, 3], ranks with seen items filtered and kept, and
            log-probabilities of the targets; see `rank_users`.
        filtered: lists without the items of each history.
        unfiltered: lists with them.
    """

    ranked: Float[np.ndarray, "user 3"]
    filtered: TopLists
    unfiltered: TopLists


class SeenItems(eqx.Module):
    """The items that lists leave out; numbers that are no slots are padding."""

    slot: Int[Array, "batch seen"]


Lister = Callable[
    [EqIDs, ChunkQueries, SeenItems],
    tuple[Int[Array, "2 batch k"], Float[Array, "2 batch k"]],
]


def make_lister(put: Placement, k: int = LIST_LENGTH) -> Lister:
    """Returns what finds the lists of a chunk, filtered and not.

    Args:
        put: places the seen items where the model is.
        k: number of items in each list.
    """

    @jax.jit
    def both(
        model: EqIDs, asked: ChunkQueries, seen: SeenItems
    ) -> tuple[Int[Array, "2 batch k"], Float[Array, "2 batch k"]]:
        query = model.lifted(asked.query, asked.recent)
        mixture = model.mixture(query, asked.recent)
        found = [
            top_k(model.softmax, query, k, exclude=left_out, mixture=mixture)
            for left_out in (seen.slot, None)
        ]
        return (
            replicated(jnp.stack([one.slots for one in found])),
            replicated(jnp.stack([one.log_probs for one in found])),
        )

    return lambda model, asked, seen: both(model, asked, put(seen))


def pass_over_users(
    model: EqIDs, dataset: Dataset, split: Split, ranker: Ranker, lister: Lister
) -> UserPass:
    """Returns ranks and lists of all users of a split; Llama reads each history once.

    Args:
        model: placed as `ranker` expects it.
        dataset: the dataset with the histories and the targets.
        split: `valid` or `test`; at test the history includes the validation item.
        ranker: from `make_ranker`.
        lister: from `make_lister`.
    """
    ranked: list[np.ndarray] = []
    slots: list[np.ndarray] = []
    log_probs: list[np.ndarray] = []
    for chunk in chunks(dataset, split, jax.device_count()):
        asked = ranker.queries_of(model, chunk)
        ranked.append(np.asarray(ranker.ranks(model, asked))[: chunk.num_users])
        found = lister(model, asked, SeenItems(jnp.asarray(_seen(chunk))))
        for parts, part in zip((slots, log_probs), found, strict=True):
            parts.append(np.asarray(part)[:, : chunk.num_users])
    items = np.concatenate(slots, axis=1).astype(np.int32)
    scores = np.concatenate(log_probs, axis=1).astype(np.float32)
    lists = [TopLists(*one) for one in zip(items, scores, strict=True)]
    return UserPass(np.concatenate(ranked).astype(np.float64), *lists)


def lists_by(
    scorer: Scorer, dataset: Dataset, split: Split, k: int = LIST_LENGTH
) -> TopLists:
    """Returns the lists of a baseline without seen items; equal scores by slot.

    Args:
        scorer: the baseline.
        dataset: the dataset with the histories and the targets.
        split: the split that has the targets.
        k: number of items in each list.
    """
    best = jax.jit(lambda scores: jax.lax.top_k(scores, min(k, scores.shape[1])))
    most = min(MOST_USERS, max(1, _SCORES // dataset.num_slots))
    parts = []
    for chunk in chunks(dataset, split, most=most):
        scores = np.array(scorer(chunk))
        for row, history in enumerate(chunk.histories):
            scores[row, history] = -np.inf
        values, slots = map(np.asarray, best(scores))
        found = np.where(values > -np.inf, slots, -1)[: chunk.num_users]
        width = [(0, 0), (0, k - found.shape[1])]
        parts.append(np.pad(found, width, constant_values=-1))
    return TopLists(np.concatenate(parts).astype(np.int32))


def _seen(chunk: Chunk) -> Int32[np.ndarray, "batch seen"]:
    """The distinct slots of each history, padded to a power of two, so that few shapes
    are compiled."""
    distinct = [np.unique(history) for history in chunk.histories]
    longest = max(map(len, distinct))
    seen = np.full((len(distinct), 1 << (longest - 1).bit_length()), _NO_SLOT, np.int32)
    for row, slots in zip(seen, distinct, strict=True):
        row[: len(slots)] = slots
    return seen
