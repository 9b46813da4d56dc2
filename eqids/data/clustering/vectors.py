"""Vectors of items: by the users who used them, or by the words of their texts."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from eqids.data.clustering.singular_vectors import OVERSAMPLES, right_singular_vectors

_USERS = 2**17
"""Users whose rows are one part of the matrix."""
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
        users: int [event], rows of training events, ascending.
        items: int [event], columns of training events.
        num_users: rows of the matrix.
        num_items: columns of the matrix.
        width: singular vectors to keep; missing ones are zeros.
        seed: the seed of the random projection.

    Returns:
        float32 [item, width]; zeros for items that occur in no event.
    """
    bounds = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=num_users))])
    parts = [
        _unit_rows(items, bounds[first : first + _USERS + 1], num_items)
        for first in range(0, num_users, _USERS)
    ]
    vectors = right_singular_vectors(parts, width, seed)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.sqrt(np.where(norm > 0, norm, 1))
    return vectors


def _unit_rows(items: np.ndarray, bounds: np.ndarray, num_items: int) -> sp.csr_matrix:
    """Counts of items in the events of some users, divided by the norm of each row."""
    used = items[bounds[0] : bounds[-1]].copy()  # it will be sorted
    ones, shape = np.ones(len(used), np.float32), (len(bounds) - 1, num_items)
    rows = sp.csr_matrix((ones, used, bounds - bounds[0]), shape)
    rows.sum_duplicates()
    events = np.diff(rows.indptr)
    of = np.repeat(np.arange(len(events)), events)
    length = np.sqrt(np.bincount(of, rows.data**2, len(events)))
    rows.data /= np.repeat(length, events).astype(np.float32)
    return rows


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
    vectors = 4 * (width + OVERSAMPLES)
    of_part = min(num_users, _USERS) * vectors
    return 7 * num_items * vectors + of_part + 8 * (2 * num_users + num_events)


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
    return right_singular_vectors([words], width, seed)
