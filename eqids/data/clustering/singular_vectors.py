"""The largest right singular vectors of a sparse matrix, in all cores and in parts.

Subspace iteration from a random start (Halko, Martinsson and Tropp 2011, algorithm
4.4) on the product of the matrix's transpose with the matrix. A part of its rows goes
through both factors before the next one does, so that nothing of the size of the rows
is held beside the matrix. Of a large matrix the first iterations see a sample of the
parts, and the last two see all.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Float64
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from eqids.io.cores import num_cores

OVERSAMPLES = 10
"""Vectors that are iterated beside the wanted ones."""
_ITERATIONS = 6
_SAMPLE = 2**24
"""Numbers of the matrix that the first iterations see, if they are in several parts."""
_MOST_THREADS = 16
"""A thread takes some of the vectors; fewer than about four each would not pay."""
_CHUNK = 2**14
"""Rows of vectors that a thread multiplies at a time."""


def right_singular_vectors(
    parts: Sequence[sp.csr_matrix], width: int, seed: int
) -> Float32[np.ndarray, "column width"]:
    """Returns right singular vectors times singular values, the largest first.

    Args:
        parts: rows of the matrix, float32, one part after the other.
        width: vectors to return; those that the matrix does not have are zeros.
        seed: of the random start. The number of cores does not change the result.
    """
    num_rows, num_columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
    found = np.zeros((num_columns, width), np.float32)
    rank = min(width, num_rows, num_columns)
    size = min(rank + OVERSAMPLES, num_columns)
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((num_columns, size), np.float32)
    # BLAS's own threads would make sums depend on their number.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_threads()) as pool:
        for iteration in range(_ITERATIONS):
            last = iteration == _ITERATIONS - 1
            seen = parts if last else _sample(parts)
            product = _product(seen, basis, pool)
            basis = _rotated(product, _whitening(_gram(product, product, pool)), pool)
        product = _product(parts, basis, pool)
        # The matrix is projected on its product with the basis, as in algorithm 5.1.
        onto = _whitening(_gram(basis, product, pool))
        _, axes = np.linalg.eigh(onto.T @ _gram(product, product, pool) @ onto)
        found[:, :rank] = _rotated(product, onto @ axes[:, : -rank - 1 : -1], pool)
    found[~_used(parts)] = 0
    # The sign is free: the number that is furthest from 0 gets to be positive.
    peak = found[np.abs(found).argmax(axis=0), np.arange(width)]
    found *= np.where(peak < 0, -1, 1).astype(np.float32)
    return found


def _sample(parts: Sequence[sp.csr_matrix]) -> Sequence[sp.csr_matrix]:
    """Parts at equal distances, at least one, of about `_SAMPLE` numbers in sum."""
    total = sum(part.nnz for part in parts)
    return parts[:: max(1, min(len(parts), round(total / _SAMPLE)))]


def _threads() -> int:
    return min(num_cores(), _MOST_THREADS)


def _product(
    parts: Sequence[sp.csr_matrix], basis: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """The matrix's transpose times the matrix times vectors, float32 [column, vector].

    Each thread takes some of the vectors, so that no sum depends on their number.
    """

    def of(vectors: np.ndarray) -> np.ndarray:
        vectors = np.ascontiguousarray(vectors)
        total = np.zeros_like(vectors)
        for part in parts:
            total += part.T @ (part @ vectors)
        return total

    shares = np.array_split(basis, _threads(), axis=1)
    return np.concatenate(list(pool.map(of, shares)), axis=1)


def _gram(a: np.ndarray, b: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """The products of the columns of `a` with those of `b`, float64, symmetric."""

    def of(some: slice) -> np.ndarray:
        return a[some].T.astype(np.float64) @ b[some].astype(np.float64)

    products: np.ndarray = sum(pool.map(of, _chunks(a)), np.zeros(1))
    return (products + products.T) / 2


def _rotated(
    vectors: np.ndarray, by: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Vectors times a small matrix."""
    by, found = by.astype(np.float32), np.empty((len(vectors), by.shape[1]), np.float32)

    def of(some: slice) -> None:
        np.matmul(vectors[some], by, out=found[some])

    list(pool.map(of, _chunks(vectors)))
    return found


def _chunks(vectors: np.ndarray) -> Iterator[slice]:
    return (slice(at, at + _CHUNK) for at in range(0, len(vectors), _CHUNK))


def _whitening(gram: np.ndarray) -> Float64[np.ndarray, "vector vector"]:
    """What vectors are multiplied by to be orthonormal; the rest of a lower rank are
    zeros.

    Args:
        gram: the products of the vectors with each other.
    """
    squares, axes = np.linalg.eigh(gram)
    noise = (len(squares) * np.finfo(np.float32).eps) ** 2 * squares[-1]
    return axes * np.where(squares > noise, squares, np.inf) ** -0.5


def _used(parts: Sequence[sp.csr_matrix]) -> Bool[np.ndarray, " column"]:
    """Whether each column has a number."""
    used = np.zeros(parts[0].shape[1], np.bool_)
    for part in parts:
        used[part.indices] = True
    return used
