"""Directions of items: their similarity, the map of the catalog, and its clusters."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqids.inference.item_directions import (
    directions,
    map_clusters,
    map_positions,
    nearest_in_history,
)


def random_vectors(num: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = 4.0 ** -np.arange(width)  # so that the principal axes are clear
    return (rng.standard_normal((num, width)) * scales + scales).astype(np.float32)


def test_directions_have_length_1() -> None:
    vectors = random_vectors(20_000, 3, 0).reshape(400, 50, 3)
    vectors[7, 5] = 0
    found = directions(vectors).astype(np.float32)
    expected = vectors.reshape(-1, 3).copy()
    length = np.linalg.norm(expected, axis=1)
    expected[length > 0] /= length[length > 0, None]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@settings(max_examples=40)
@given(st.integers(2, 300), st.integers(2, 5), st.integers(0, 99))
def test_the_axes_of_the_map_are_principal_components(
    num: int, width: int, seed: int
) -> None:
    vectors = directions(random_vectors(num, width, seed)[:, None])
    catalog = np.arange(num)
    shown = np.flatnonzero(np.random.default_rng(seed).random(num) < 0.7)
    shown = shown if len(shown) else catalog
    found = map_positions(vectors, catalog, shown).astype(np.float64)
    centered = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    _, variances, axes = np.linalg.svd(centered, full_matrices=False)
    # float16 rows, and few of them: an axis of little variance may be any.
    if variances[0] < 1.1 * variances[1] or len(shown) < 2:
        return
    first = centered[shown] @ axes[0]
    if np.ptp(first) < 0.05:
        return
    assert found[:, 0].std() > 0
    assert abs(np.corrcoef(first, found[:, 0])[0, 1]) > 0.999
    # Both axes have one scale, and the longer fills the map.
    assert np.ptp(found, axis=0).max() == 65535


def test_items_at_one_place_are_in_the_middle() -> None:
    vectors = directions(np.ones((1, 5, 4), np.float32))
    found = map_positions(vectors, np.arange(5), np.arange(3))
    assert {*found.reshape(-1).tolist()} <= {32767, 32768}


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(0, 12), st.integers(1, 4), st.integers(0, 99))
def test_the_nearest_items_of_a_history_are_found(
    num: int, length: int, most: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = directions(rng.standard_normal((1, num, 4)).astype(np.float32))
    slots, history = rng.permutation(num)[:5], rng.integers(0, num, length)
    found = nearest_in_history(vectors, slots, history, most)
    exact = vectors.astype(np.float32)
    for slot, near in zip(slots.tolist(), found, strict=True):
        others = {int(one) for one in history} - {slot}
        cosines = {one: float(exact[slot] @ exact[one]) for one in others}
        assert len(near) == min(most, len(others))
        best = sorted(cosines.values(), reverse=True)[:most]
        np.testing.assert_allclose([one for _, one in near], best, atol=1e-6)
        for one, cosine in near:
            assert cosine == pytest.approx(cosines[one], abs=1e-6)


def test_clusters_of_the_map_hold_near_items() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 25)
    centres = np.eye(4, dtype=np.float32)[group]
    noisy = centres + 0.05 * rng.standard_normal(centres.shape).astype(np.float32)
    found = map_clusters(directions(noisy[None]), np.arange(100), 4)
    pairs = {*zip(group.tolist(), found.tolist(), strict=True)}
    assert len(pairs) == 4  # one cluster for each group
    assert map_clusters(directions(noisy[None]), np.arange(2), 24).max() == 1
