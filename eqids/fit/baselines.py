"""Baselines by counting: popularity and a Markov chain."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from eqids.data import Dataset
from eqids.fit.evaluation import Chunk

MARKOV_ORDER = 5
"""Number of last items of a history that a Markov prediction uses."""

_EVENTS = 2**16
"""Events whose transitions are counted at a time."""

Scorer = Callable[[Chunk], Float[np.ndarray, "user slot"]]


def popularity(dataset: Dataset) -> Scorer:
    """Scores items by their number of training events, the same for every user."""
    counts = np.where(dataset.item_valid, dataset.item_counts, -np.inf)
    scores = counts.reshape(1, -1).astype(np.float32)
    return lambda chunk: np.repeat(scores, len(chunk.target), axis=0)


def markov(dataset: Dataset) -> Scorer:
    """Scores an item by how often it came soon after the last items of a history.

    A first-order chain (Rendle et al. 2010, section 4) whose counts are taken over
    the next `MARKOV_ORDER` events, with weight 1 / distance. Predictions sum the rows
    of the last `MARKOV_ORDER` items, with the same weights. Items that never followed
    are ordered by popularity.
    """
    follows = _normalised_transitions(dataset)
    prior = popularity_prior(dataset)

    def score(chunk: Chunk) -> np.ndarray:
        recent = sp.lil_matrix((len(chunk.histories), dataset.num_slots))
        for row, history in enumerate(chunk.histories):
            newest_first = history[: -MARKOV_ORDER - 1 : -1]
            for distance, slot in enumerate(newest_first, start=1):
                recent[row, slot] += 1.0 / distance
        return ((recent.tocsr() @ follows).toarray() + prior).astype(np.float32)

    return score


def popularity_prior(dataset: Dataset) -> Float[np.ndarray, " slot"]:
    """Returns what to add to scores, so that popularity orders equal ones.

    It is at most 1e-6, and -inf for places whose item cannot be recommended.
    """
    counts = np.where(dataset.item_valid, dataset.item_counts, -np.inf).reshape(-1)
    return 1e-6 * counts / max(1.0, counts.max())


def _normalised_transitions(dataset: Dataset) -> sp.csr_matrix:
    """Transition weights between slots in the training events, with normalised rows."""
    parts: list[sp.csr_matrix] = []
    for first in range(0, len(dataset.slots), _EVENTS):
        part = _transitions(dataset, first, first + _EVENTS)
        # Parts of similar size are added, so that a large sum is not computed again for
        # each part.
        while parts and parts[-1].nnz <= part.nnz:
            part = part + parts.pop()
        parts.append(part)
    total = sum(parts[1:], start=parts[0])
    sums = np.asarray(total.sum(axis=1)).reshape(-1)
    return sp.diags(1.0 / np.maximum(sums, 1e-9)) @ total


def _transitions(dataset: Dataset, first: int, stop: int) -> sp.csr_matrix:
    """Transition weights after the events from `first` up to `stop`, not normalised."""
    event = np.arange(first, min(stop + MARKOV_ORDER, len(dataset.slots)))
    user = np.searchsorted(dataset.offsets, event, side="right") - 1
    training = event - dataset.offsets[user] < dataset.train_length[user]
    event, user = event[training], user[training]
    weights, before, after = [], [], []
    for distance in range(1, MARKOV_ORDER + 1):
        same = (user[distance:] == user[:-distance]) & (event[:-distance] < stop)
        before.append(dataset.slots[event[:-distance][same]])
        after.append(dataset.slots[event[distance:][same]])
        weights.append(np.full(len(before[-1]), 1.0 / distance))
    pairs = np.concatenate(before), np.concatenate(after)
    shape = (dataset.num_slots, dataset.num_slots)
    return sp.csr_matrix((np.concatenate(weights), pairs), shape=shape)
