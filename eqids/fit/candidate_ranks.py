"""Ranks of targets among given candidates, in place of the full catalog."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int

from eqids.config import require
from eqids.data import Dataset
from eqids.data.raw.recommended_lists import GivenLists
from eqids.fit.baselines import Scorer
from eqids.fit.evaluation import (
    MOST_USERS,
    Chunk,
    ChunkQueries,
    Ranker,
    Split,
    chunks,
    of_users,
    targets_of,
)
from eqids.model import EqIDs
from eqids.model.item_log_probs import log_probs

_SCORES = 2**25
"""Scores of baselines in memory at a time."""


def with_candidates(dataset: Dataset, lists: GivenLists, split: Split) -> Dataset:
    """Returns the dataset with the targets of users who have candidates only.

    Args:
        dataset: the dataset.
        lists: the candidates.
        split: the split that has the targets.

    Raises:
        UserError: no user of the split has candidates.
    """
    users, _ = targets_of(dataset, split)
    listed = np.zeros(dataset.num_users, np.bool_)
    listed[users] = np.isin(users, lists.user)
    require(
        bool(listed.any()),
        f"{lists.path} has candidates of no user with a {split} target of "
        f"{dataset.path}",
    )
    return of_users(dataset, listed)


def candidate_notes(lists: GivenLists, dataset: Dataset, split: Split) -> list[str]:
    """Returns sentences about what is unusual in candidates.

    Args:
        lists: the candidates.
        dataset: of all users.
        split: the split that has the targets.
    """
    users, positions = targets_of(dataset, split)
    target = dataset.slots[dataset.offsets[users] + positions]
    without = ~np.isin(users, lists.user)
    missed = sum(
        goal not in lists.of(user)
        for user, goal in zip(users[~without].tolist(), target[~without], strict=True)
    )
    counts = {
        "users of the file are not in the dataset, and left out": (
            lists.num_unknown_users
        ),
        "candidates are no items of the catalog, and left out": lists.num_unknown_items,
        "users of the split have no candidates, and are left out": int(without.sum()),
        "targets are not among their user's candidates, and count as missed": missed,
    }
    return [f"{number:,} {what}" for what, number in counts.items() if number]


def model_candidate_ranks(
    model: EqIDs, dataset: Dataset, split: Split, ranker: Ranker, lists: GivenLists
) -> Float64[np.ndarray, "user 3"]:
    """Returns each target's ranks among candidates, and its log-probability.

    Args:
        model: the model, on one device.
        dataset: with targets of users who have candidates only.
        split: the split that has the targets.
        ranker: from `make_ranker`.
        lists: the candidates.

    Returns:
        Ranks without the items of the history, where a target that was seen is missed;
        ranks among all candidates; log P of the target in the full catalog. Rows as
        `targets_of` has users.
    """
    program = jax.jit(_log_probs)

    def scored(chunk: Chunk, slots: np.ndarray) -> np.ndarray:
        asked = ranker.queries_of(model, chunk)
        # Few shapes: padded to a power of two with the first slot.
        width = 1 << (len(slots) - 1).bit_length()
        padded = np.pad(slots, (0, width - len(slots)), mode="edge")
        found = program(model, asked, jnp.asarray(padded, jnp.int32))
        return np.asarray(found)[:, : len(slots)]

    return _ranks(dataset, split, lists, scored)


def baseline_candidate_ranks(
    scorer: Scorer, dataset: Dataset, split: Split, lists: GivenLists
) -> Float32[np.ndarray, "user 2"]:
    """Returns each target's ranks among candidates by a baseline's scores.

    Args:
        scorer: the baseline.
        dataset: with targets of users who have candidates only.
        split: the split that has the targets.
        lists: the candidates.
    """
    most = max(1, min(MOST_USERS, _SCORES // dataset.num_slots))

    def scored(chunk: Chunk, slots: np.ndarray) -> np.ndarray:
        return np.asarray(scorer(chunk))[:, slots]

    found = _ranks(dataset, split, lists, scored, most)
    return found[:, :2].astype(np.float32)


def _log_probs(
    model: EqIDs, asked: ChunkQueries, slots: Int[Array, " some"]
) -> Float[Array, "batch some"]:
    query = model.lifted(asked.query, asked.recent)
    return log_probs(model, query, asked.recent, slots)


def _ranks(
    dataset: Dataset,
    split: Split,
    lists: GivenLists,
    scored: Callable[[Chunk, np.ndarray], Float[np.ndarray, "row some"]],
    most: int = MOST_USERS,
) -> Float64[np.ndarray, "user 3"]:
    users, _ = targets_of(dataset, split)
    parts, done = [], 0
    for chunk in chunks(dataset, split, most=most):
        of_chunk = users[done : done + chunk.num_users]
        done += chunk.num_users
        own = [lists.of(user) for user in of_chunk.tolist()]
        own = [one[one >= 0] for one in own]
        target = chunk.target[: chunk.num_users]
        slots = np.unique(np.concatenate([target, *own]))
        scores = scored(chunk, slots)
        rows = zip(own, chunk.histories, target.tolist(), scores, strict=False)
        parts += list(_rows(rows, slots))
    return np.array(parts, np.float64)


def _rows(
    rows: "zip[tuple[np.ndarray, np.ndarray, int, np.ndarray]]", slots: np.ndarray
) -> Iterator[tuple[float, float, float]]:
    for candidates, history, target, scores in rows:
        at = np.searchsorted(slots, target)
        ranks = []
        for left in (candidates[~np.isin(candidates, history)], candidates):
            others = scores[np.searchsorted(slots, left[left != target])]
            # A score that is not <= the target's is above it, NaN included.
            above = np.count_nonzero(~(others <= scores[at]))
            ties = np.count_nonzero(others == scores[at])
            listed = target in left
            ranks.append(1.0 + above + 0.5 * ties if listed else np.inf)
        yield ranks[0], ranks[1], float(scores[at])
