"""A baseline by counting: an item-to-item regression in closed form (EASE)."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

from eqids.data import Dataset
from eqids.fit.baselines import Scorer, popularity_prior
from eqids.fit.evaluation import Chunk
from eqids.fit.training_matrix import BLOCK, TrainingMatrix, recency_weights

_RECENCY = 1.0
"""Items of a history weigh 1 / distance."""


def ease(dataset: Dataset) -> Scorer:
    """Scores an item by a linear regression on the items of a history.

    EASE (Steck 2019): the weights B minimise |X - X B|^2 + l |B|^2, where X is the
    binary matrix of users x items and the diagonal of B is 0. Steck weighs the items of
    a history alike; here they are weighted by recency, as in the Markov chain. Items
    without training events have the score 0, and equal scores are ordered by
    popularity.
    """
    matrix = TrainingMatrix.of(dataset)
    slots, weights = matrix.slots, item_weights(matrix, penalty(matrix))
    prior = popularity_prior(dataset).astype(np.float32)

    def score(chunk: Chunk) -> np.ndarray:
        recent = recency_weights(chunk.histories, dataset.num_slots, _RECENCY)
        scores = np.repeat(prior[None], len(chunk.histories), axis=0)
        scores[:, slots] += recent[:, slots] @ weights
        return scores

    return score


def penalty(matrix: TrainingMatrix) -> float:
    """Returns l of EASE: 50 x the root of an item's mean number of users.

    By the root, because the noise of a count grows with its root. On validation, 100
    was best of 10, 100, 300 on Amazon Beauty (13 users an item; the rule gives 180),
    and 1000 of 100, 300, 1000, 3000 on MovieLens-100K (58 users; 380) and 1M (267
    users; 820), where 300 was at most .0025 worse.
    """
    return 50.0 * float(np.sqrt(matrix.num_users().mean()))


def item_weights(
    matrix: TrainingMatrix, penalty: float
) -> Float[np.ndarray, "item item"]:
    """Returns the weights B of EASE, of each item (row) for each other (column).

    With P = (X'X + penalty I)^-1, B is -P[i, j] / P[j, j] off the diagonal. Everything
    happens in the one matrix that is returned, 4 bytes x items^2.

    Args:
        matrix: X.
        penalty: l, above 0, by which the inverse exists.
    """
    num_items = matrix.num_items
    gram = np.empty((num_items, num_items), np.float32, order="F")
    for block, both in matrix.co_occurrences():
        gram[:, block] = both.T
    gram[np.diag_indices(num_items)] += penalty
    factor, failed = lapack.spotrf(gram, lower=True, overwrite_a=True)
    assert not failed, "X'X + penalty I is positive definite"
    inverse, failed = lapack.spotri(factor, lower=True, overwrite_c=True)
    assert not failed, "its Cholesky factor has a positive diagonal"
    # LAPACK writes columns of the lower half: rows of the upper half of the transpose,
    # which is the same matrix, and whose rows are contiguous.
    weights = inverse.T
    _mirror_upper(weights)
    diagonal = weights.diagonal().copy()
    weights /= -diagonal
    np.fill_diagonal(weights, 0.0)
    return weights


def _mirror_upper(square: Float[np.ndarray, "item item"]) -> None:
    """Copies the upper half of a matrix to the lower one."""
    for first in range(0, len(square), BLOCK):
        rows = slice(first, first + BLOCK)
        square[first + BLOCK :, rows] = square[rows, first + BLOCK :].T
        corner = np.triu(square[rows, rows])
        square[rows, rows] = corner + np.triu(corner, 1).T
