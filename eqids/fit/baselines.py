"""Baselines by counting: popularity and a Markov chain."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from eqids.config import MARKOV_ORDER
from eqids.data import Dataset
from eqids.data.transitions import transitions
from eqids.fit.evaluation import Chunk

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
    weights, prior = successor_weights(dataset), popularity_prior(dataset)
    return lambda chunk: (weights(chunk).toarray() + prior).astype(np.float32)


def successor_weights(dataset: Dataset) -> Callable[[Chunk], sp.csr_matrix]:
    """Returns what weighs the successors of the last items of histories, see `markov`.

    It returns float64 [user, slot], sparse; 0 for items that never followed.
    """
    follows = _normalised_transitions(dataset)

    def weigh(chunk: Chunk) -> sp.csr_matrix:
        recent = sp.lil_matrix((len(chunk.histories), dataset.num_slots))
        for row, history in enumerate(chunk.histories):
            newest_first = history[: -MARKOV_ORDER - 1 : -1]
            for distance, slot in enumerate(newest_first, start=1):
                recent[row, slot] += 1.0 / distance
        return recent.tocsr() @ follows

    return weigh


def popularity_prior(dataset: Dataset) -> Float[np.ndarray, " slot"]:
    """Returns what to add to scores, so that popularity orders equal ones.

    It is at most 1e-6, and -inf for places whose item cannot be recommended.
    """
    counts = np.where(dataset.item_valid, dataset.item_counts, -np.inf).reshape(-1)
    return 1e-6 * counts / max(1.0, counts.max())


def _normalised_transitions(dataset: Dataset) -> sp.csr_matrix:
    """Transition weights between slots in the training events, with normalised rows."""
    total = transitions(
        dataset.slots, dataset.offsets, dataset.train_length, dataset.num_slots
    )
    sums = np.asarray(total.sum(axis=1)).reshape(-1)
    return sp.diags(1.0 / np.maximum(sums, 1e-9)) @ total
