"""Baselines by counting: popularity and a Markov chain."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from eqids.config import MARKOV_ORDER
from eqids.data import Dataset
from eqids.data.successors import transitions
from eqids.fit.evaluation import MOST_USERS, Chunk, Split, chunks
from eqids.fit.ranking import metrics, ranks_of_scores

_SCORES = 2**25
"""Scores in memory at a time (128 MiB): with a large catalog, a chunk has fewer
users."""

Scorer = Callable[[Chunk], Float[np.ndarray, "user slot"]]


def popularity(dataset: Dataset) -> Scorer:
    """Scores items by their number of training events, the same for every user."""
    counts = np.where(dataset.item_valid, dataset.item_counts, -np.inf)
    scores = counts.reshape(1, -1).astype(np.float32)
    return lambda chunk: np.repeat(scores, len(chunk.target), axis=0)


def markov(dataset: Dataset) -> Scorer:
    """Scores an item by how often it came soon after the last items of a history.

    The counts are those of `eqids.data.successors`, all of them. Predictions sum the
    rows of the last `MARKOV_ORDER` items, with weight 1 / distance. Items that never
    followed are ordered by popularity.
    """
    follows = _normalised_transitions(dataset)
    counts = np.where(dataset.item_valid, dataset.item_counts, -np.inf).reshape(-1)
    prior = 1e-6 * counts / max(1.0, counts.max())

    def score(chunk: Chunk) -> np.ndarray:
        recent = sp.lil_matrix((len(chunk.histories), dataset.num_slots))
        for row, history in enumerate(chunk.histories):
            newest_first = history[: -MARKOV_ORDER - 1 : -1]
            for distance, slot in enumerate(newest_first, start=1):
                recent[row, slot] += 1.0 / distance
        return ((recent.tocsr() @ follows).toarray() + prior).astype(np.float32)

    return score


def _normalised_transitions(dataset: Dataset) -> sp.csr_matrix:
    """Transition weights between slots in the training events, with normalised rows."""
    total = transitions(
        dataset.slots, dataset.offsets, dataset.train_length, dataset.num_slots
    )
    sums = np.asarray(total.sum(axis=1)).reshape(-1)
    return sp.diags(1.0 / np.maximum(sums, 1e-9)) @ total


def evaluate_baseline(
    dataset: Dataset, split: Split, scorer: Scorer
) -> dict[str, Mapping[str, float]]:
    """Returns a baseline's metrics, with seen items filtered and kept."""
    rank = jax.jit(ranks_of_scores)

    def ranked(chunk: Chunk) -> np.ndarray:
        found = rank(scorer(chunk), chunk.target, chunk.seen, chunk.seen_by)
        return np.asarray(found)[: chunk.num_users]

    most = min(MOST_USERS, max(1, _SCORES // dataset.num_slots))
    parts = [ranked(chunk) for chunk in chunks(dataset, split, most=most)]
    both = np.concatenate(parts).astype(np.float64)
    return {"filtered": metrics(both[:, 0]), "unfiltered": metrics(both[:, 1])}
