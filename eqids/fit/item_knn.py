"""A baseline by counting: neighbours of items (ItemKNN)."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float

from eqids.data import Dataset
from eqids.fit.baselines import Scorer, popularity_prior
from eqids.fit.evaluation import Chunk
from eqids.fit.training_matrix import TrainingMatrix, recency_weights

NEIGHBOURS = 100
"""Most neighbours of an item."""

_RECENCY = 2.0
"""Items of a history weigh 1 / distance^2."""


def item_knn(dataset: Dataset) -> Scorer:
    """Scores an item by its similarity to the items of a history.

    Two items are similar if the same users have them: the cosine of their columns in
    the binary matrix of users x items (Sarwar et al. 2001; Deshpande and Karypis 2004).
    Each item keeps its `NEIGHBOURS` most similar ones, and a candidate's score is the
    sum over the items of the history that have it as a neighbour, each weighted by its
    recency. Items without a neighbour in the history are ordered by popularity.
    """
    neighbours, prior = _neighbours(dataset), popularity_prior(dataset)

    def score(chunk: Chunk) -> np.ndarray:
        recent = recency_weights(chunk.histories, dataset.num_slots, _RECENCY)
        return ((recent @ neighbours).toarray() + prior).astype(np.float32)

    return score


def _neighbours(dataset: Dataset) -> sp.csr_matrix:
    """The cosine of each item and its neighbours, [slot, slot]."""
    matrix = TrainingMatrix.of(dataset)
    norms, slots = np.sqrt(matrix.num_users()), matrix.slots
    values, item, other = [], [], []
    for block, both in matrix.co_occurrences():
        cosine = both / norms[block, None] / norms
        np.fill_diagonal(cosine[:, block], 0.0)
        row, column = np.nonzero(_largest(cosine, NEIGHBOURS))
        values.append(cosine[row, column])
        item.append(slots[block][row])
        other.append(slots[column])
    pairs = np.concatenate(item), np.concatenate(other)
    shape = (dataset.num_slots, dataset.num_slots)
    return sp.csr_matrix((np.concatenate(values), pairs), shape)


def _largest(
    values: Float[np.ndarray, "row item"], most: int
) -> Bool[np.ndarray, "row item"]:
    """Where a row's largest positive values are; of equal ones, the first."""
    num_items = values.shape[1]
    if num_items <= most:
        return values > 0
    least = np.partition(values, num_items - most, axis=1)[:, num_items - most, None]
    above, equal = values > least, values == least
    left = most - above.sum(axis=1, keepdims=True)
    first = equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= left)
    return (above | first) & (values > 0)
