"""Encodings of texts, projected to text columns."""

import numpy as np
from conftest import assert_close

from eqids.runs.text_vectors import Projection


def test_later_texts_are_projected_as_the_first_ones() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 9)).astype(np.float32)
    vectors[7] = 0
    axes = Projection.of(vectors, 4)
    found = axes(vectors)
    assert_close(axes(vectors[[3, 7]]), found[[3, 7]], "float32")
    assert not found[7].any()
    centred = vectors[3] - np.delete(vectors, 7, axis=0).mean(axis=0)
    expected = axes.axes @ (centred / np.linalg.norm(centred))
    assert_close(found[3], expected, "float32")


def test_whitened_axes_vary_equally_and_few_vectors_change_little() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([9.0, 5.0, 3.0, 1.0, 0.5, 0.2])
    many = (rng.standard_normal((6_000, 6)) * spread).astype(np.float32)
    found = Projection.of(many, 5).whitened(many)(many)
    np.testing.assert_allclose(np.square(found).mean(axis=0), np.ones(5), rtol=0.02)
    products = found.T @ found / len(found)
    assert np.abs(products - np.diag(np.diag(products))).max() < 0.01
    # Few vectors say next to nothing of many variances, which are equal here.
    few = rng.standard_normal((30, 60)).astype(np.float32)
    plain = Projection.of(few, 20)
    scale = np.linalg.norm(plain.whitened(few).axes, axis=1)
    spread = np.square(plain(few)).mean(axis=0) ** 0.5
    assert scale.max() / scale.min() < 1.5 < spread.max() / spread.min()
    # An axis that no vector has stays finite.
    flat = np.zeros((5, 3), np.float32)
    flat[:, 0] = [1, -1, 2, -2, 3]
    assert np.isfinite(Projection.of(flat, 3).whitened(flat)(flat)).all()
