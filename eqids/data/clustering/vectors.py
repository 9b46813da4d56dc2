"""Vectors of items: by the users who used them, or by the words of their texts."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.utils.extmath import randomized_svd

_ITERATIONS = 6
_OVERSAMPLES = 10
_WORDS = 2**18
"""Number of columns that words are hashed to."""


def item_vectors(
    users: np.ndarray,
    items: np.ndarray,
    num_users: int,
    num_items: int,
    width: int,
    seed: int,
) -> np.ndarray:
    """Returns the truncated SVD of the user x item matrix (Halko et al. 2011).

    A user's row is divided by its norm, so that users with many events do not dominate.
    An item's vector is divided by the square root of its norm, so that popular items do
    not dominate.

    Args:
        users: int [event], rows of training events.
        items: int [event], columns of training events.
        num_users: rows of the matrix.
        num_items: columns of the matrix.
        width: singular vectors to keep; missing ones are zeros.
        seed: the seed of the random projection.

    Returns:
        float32 [item, width]; zeros for items that occur in no event.
    """
    ones = np.ones(len(users), np.float32)
    shape = (num_users, num_items)
    matrix = scipy.sparse.csr_matrix((ones, (users, items)), shape)
    length = np.sqrt(np.asarray(matrix.power(2).sum(axis=1))).reshape(-1)
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    matrix = (scipy.sparse.diags(scale) @ matrix).tocsr().astype(np.float32)
    vectors = _right_vectors(matrix, width, seed)
    vectors[np.bincount(items, minlength=num_items) == 0] = 0
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.sqrt(np.where(norm > 0, norm, 1))
    return vectors


def item_vectors_bytes(
    num_users: int, num_items: int, num_events: int, width: int
) -> int:
    """Returns the approximate peak memory of `item_vectors` in bytes.

    Args:
        num_users: rows of the matrix.
        num_items: columns of the matrix.
        num_events: training events.
        width: singular vectors to keep.
    """
    return 12 * (width + _OVERSAMPLES) * (num_users + num_items) + 24 * num_events


def word_vectors(texts: Sequence[str], width: int, seed: int) -> np.ndarray:
    """Returns the truncated SVD of TF-IDF over hashed words: latent semantic indexing.

    Args:
        texts: [item], titles or longer texts.
        width: singular vectors to keep; missing ones are zeros.
        seed: the seed of the random projection.

    Returns:
        float32 [item, width]; zeros for an item without words.
    """
    hashing = HashingVectorizer(
        n_features=_WORDS,
        alternate_sign=False,
        norm=None,
        token_pattern=r"(?u)\w+",
        dtype=np.float32,
    )
    counts = hashing.transform(texts)
    matrix = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    used = np.flatnonzero(np.bincount(matrix.indices, minlength=_WORDS))
    words = matrix.tocsc()[:, used].T.tocsr().astype(np.float32)
    return _right_vectors(words, width, seed)


def _right_vectors(
    matrix: scipy.sparse.csr_matrix, width: int, seed: int
) -> np.ndarray:
    """Right singular vectors times singular values, float32 [column, width]."""
    vectors = np.zeros((matrix.shape[1], width), np.float32)
    rank = min(width, *matrix.shape)
    if rank and matrix.nnz:
        _, values, rows = randomized_svd(
            matrix,
            rank,
            n_oversamples=_OVERSAMPLES,
            n_iter=_ITERATIONS,
            random_state=seed,
        )
        np.multiply(rows.T, values, out=vectors[:, :rank])
    return vectors
