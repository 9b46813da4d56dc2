"""Balanced k-means against brute force, planted groups and its own promises."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqids.data.clustering import kmeans
from eqids.data.clustering.kmeans import balanced_kmeans, kmeans_bytes, num_steps


def _sizes(num_items: int, num_clusters: int) -> np.ndarray:
    return np.bincount(np.arange(num_items) % num_clusters)


def _inside(vectors: np.ndarray, cluster: np.ndarray) -> float:
    """Sum of squared distances to the means, in float64."""
    groups = [vectors[cluster == c].astype(np.float64) for c in np.unique(cluster)]
    return sum(float(((g - g.mean(axis=0)) ** 2).sum()) for g in groups)


def _groups(
    num_groups: int, each: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around far points, and the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(num_groups), each))
    centre = 8 * rng.standard_normal((num_groups, width))
    noise = rng.standard_normal((len(group), width))
    return (centre[group] + noise).astype(np.float32), group


@settings(max_examples=20)
@given(
    num_items=st.integers(1, 200),
    share=st.floats(0, 1),
    width=st.integers(1, 5),
    spherical=st.booleans(),
    distinct=st.sampled_from([1, 3, 200]),
    seed=st.integers(0, 99),
)
def test_every_cluster_has_the_size_that_is_given(
    num_items: int, share: float, width: int, spherical: bool, distinct: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    num_clusters = 1 + round(share * (num_items - 1))
    sizes = 1 + rng.multinomial(
        num_items - num_clusters, np.full(num_clusters, 1 / num_clusters)
    )
    vectors = rng.standard_normal((distinct, width)).astype(np.float32)
    vectors = vectors[rng.integers(0, distinct, num_items)]
    vectors[rng.random(num_items) < 0.2] = 0
    weights = np.ones(num_items, np.float32)
    steps: list[int] = []
    cluster = balanced_kmeans(vectors, sizes, weights, seed, spherical, steps.append)
    np.testing.assert_array_equal(np.bincount(cluster), sizes)
    assert cluster.dtype == np.int32
    assert steps == list(range(1, num_steps(num_clusters) + 1))
    again = balanced_kmeans(vectors, sizes, weights, seed, spherical)
    np.testing.assert_array_equal(again, cluster)


@settings(max_examples=20)
@given(seed=st.integers(0, 40))
def test_two_clusters_are_the_best_there_are(seed: int) -> None:
    vectors, _ = _groups(2, 4, 2, seed)
    cluster = balanced_kmeans(vectors, np.array([4, 4]), np.ones(8, np.float32), seed)
    best = min(
        _inside(vectors, np.isin(np.arange(8), chosen))
        for chosen in itertools.combinations(range(8), 4)
    )
    assert _inside(vectors, cluster) <= best * 1.02


def test_far_groups_are_found() -> None:
    vectors, group = _groups(32, 40, 16, seed=1)
    weights = np.ones(len(group), np.float32)
    cluster = balanced_kmeans(vectors, _sizes(len(group), 32), weights, seed=0)
    together = (cluster[:, None] == cluster) == (group[:, None] == group)
    assert together.mean() > 0.99


def test_cutting_neighbours_anew_improves_on_bisection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, _ = _groups(40, 20, 8, seed=2)
    sizes, weights = _sizes(800, 40), np.ones(800, np.float32)
    found = []
    for passes in (0, 4, 16):
        monkeypatch.setattr(kmeans, "_PASSES", passes)
        cluster = balanced_kmeans(vectors, sizes, weights, seed=0)
        found.append(_inside(vectors, cluster))
    # How much depends on the rounding of the machine's products.
    assert found[0] >= found[1] >= found[2] and found[0] > 1.2 * found[2]


def test_the_number_of_cores_does_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, _ = _groups(20, 50, 8, seed=3)
    sizes, weights = _sizes(1000, 20), np.ones(1000, np.float32)
    found = []
    for cores in (1, 4):
        monkeypatch.setattr(kmeans, "num_cores", lambda cores=cores: cores)
        found.append(balanced_kmeans(vectors, sizes, weights, seed=0))
    np.testing.assert_array_equal(*found)


def test_spherical_clusters_do_not_see_lengths() -> None:
    rng = np.random.default_rng(4)
    vectors, _ = _groups(8, 30, 6, seed=4)
    # Powers of two, so that directions stay the same to the bit.
    longer = vectors * np.exp2(rng.integers(-3, 4, (240, 1))).astype(np.float32)
    sizes, weights = _sizes(240, 8), np.ones(240, np.float32)
    first, second = (
        balanced_kmeans(v, sizes, weights, 0, spherical=True) for v in (vectors, longer)
    )
    np.testing.assert_array_equal(first, second)
    plain = balanced_kmeans(longer, sizes, weights, 0)
    assert (plain != first).any()


def test_heavy_items_decide() -> None:
    heavy = np.array([[0, 1], [0, 1.1], [0, -1], [0, -1.1]], np.float32)
    light = np.array([[1.5, 0], [1.6, 0], [-1.5, 0], [-1.6, 0]], np.float32)
    vectors = np.concatenate([heavy, light])
    for weight, halves in ((1, slice(4, 8)), (100, slice(0, 4))):
        weights = np.repeat(np.float32([weight, 1]), 4)
        cluster = balanced_kmeans(vectors, np.array([4, 4]), weights, seed=0)[halves]
        assert cluster[0] == cluster[1] != cluster[2] == cluster[3]


def test_memory_is_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    num_items, width = 60_000, 32
    monkeypatch.setattr(kmeans, "_PASSES", 1)
    monkeypatch.setattr(kmeans, "_CHUNK", 2**12)
    monkeypatch.setattr(kmeans, "_DISTANCES", 2**16)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, width), np.float32)
    weights = np.ones(num_items, np.float32)
    tracemalloc.start()
    balanced_kmeans(vectors, _sizes(num_items, 16), weights, seed=0)
    peak = tracemalloc.get_traced_memory()[1] + vectors.nbytes + weights.nbytes
    tracemalloc.stop()
    stated = kmeans_bytes(num_items, width)
    # Samples of parts come on top, which larger catalogs do not notice.
    assert 0.6 * stated < peak < 1.15 * stated
