"""Clusters against planted structure, brute force and a full SVD."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from eqids.config import PrepareConfig, UserError
from eqids.data.clusters import assign, consecutive_share, item_vectors, place
from eqids.data.info import Counts
from eqids.data.interactions import Interactions
from eqids.data.prepare import make_catalog
from eqids.data.split import leave_one_out


def _planted(num_groups: int = 4, per_group: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Users who each use the items of one group only."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40 * num_groups), 6)
    group = users % num_groups
    return users, group * per_group + rng.integers(0, per_group, len(users))


def test_vectors_span_what_a_full_svd_spans() -> None:
    rng = np.random.default_rng(1)
    users, items = np.divmod(rng.choice(60 * 25, 400, replace=False), 25)
    matrix = np.zeros((60, 25))
    matrix[users, items] = 1
    matrix /= np.maximum(np.sqrt((matrix**2).sum(1, keepdims=True)), 1e-9)
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    exact = right.T * values
    exact /= np.sqrt(np.linalg.norm(exact, axis=1, keepdims=True))
    vectors = item_vectors(users, items, 60, 25, 25, seed=0)
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=1e-5)


def test_vectors_hold_the_largest_singular_values() -> None:
    users, items = _planted()
    matrix = np.zeros((160, 32))
    np.add.at(matrix, (users, items), 1)
    matrix /= np.sqrt((matrix**2).sum(1, keepdims=True))
    values = np.linalg.svd(matrix, compute_uv=False)
    vectors = item_vectors(users, items, 160, 32, 4, seed=3)
    tempered = np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.linalg.svd(vectors * tempered, compute_uv=False)
    np.testing.assert_allclose(found, values[:4], rtol=1e-3)


def test_items_without_events_have_zero_vectors_and_width_is_padded() -> None:
    vectors = item_vectors(np.array([0, 0, 1]), np.array([0, 2, 2]), 2, 4, 8, seed=0)
    assert vectors.shape == (4, 8) and vectors.dtype == np.float32
    assert not vectors[[1, 3]].any() and vectors[[0, 2]].any(axis=1).all()
    assert not vectors[:, 4:].any()


def test_planted_groups_are_found() -> None:
    users, items = _planted()
    vectors = item_vectors(users, items, 160, 32, 8, seed=0)
    cluster = assign("interactions", vectors, np.zeros(32, int), 4, seed=0)
    groups = [set(cluster[g * 8 : g * 8 + 8]) for g in range(4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4


@given(
    num_items=st.integers(1, 200),
    share=st.floats(0, 1),
    width=st.integers(1, 6),
    method=st.sampled_from(["interactions", "popularity", "random"]),
    seed=st.integers(0, 99),
    distinct=st.booleans(),
)
def test_every_item_has_one_place_and_no_cluster_overflows(
    num_items: int, share: float, width: int, method: str, seed: int, distinct: bool
) -> None:
    num_clusters = 1 + round(share * (num_items - 1))
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num_items if distinct else 1, width), np.float32)
    vectors = np.broadcast_to(vectors, (num_items, width))
    counts = rng.integers(0, 9, num_items)
    cluster = assign(method, vectors, counts, num_clusters, seed)
    slot, room = place(cluster, num_clusters)
    assert room == -(-num_items // num_clusters)
    assert len(set(slot.tolist())) == num_items
    assert (slot // room == cluster).all() and (slot >= 0).all()
    sizes = np.bincount(cluster, minlength=num_clusters)
    assert sizes.max() - sizes.min() <= 1
    again = assign(method, vectors, counts, num_clusters, seed)
    assert (again == cluster).all()


def test_popularity_puts_similar_counts_together_and_shuffles_the_numbers() -> None:
    counts = np.random.default_rng(0).permutation(400)
    cluster = assign("popularity", np.zeros((400, 1)), counts, 20, seed=1)
    mean = np.array([counts[cluster == c].mean() for c in range(20)])
    spread = [np.ptp(counts[cluster == c]) for c in range(20)]
    assert spread == [19] * 20
    assert abs(np.corrcoef(np.arange(20), mean)[0, 1]) < 0.6


def test_cluster_numbers_do_not_follow_popularity() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(2000), 20)
    items = np.minimum(rng.zipf(1.4, len(users)) - 1, 399)
    counts = np.bincount(items, minlength=400)
    vectors = item_vectors(users, items, 2000, 400, 16, seed=0)
    halves = []
    for seed in range(20):
        cluster = assign("interactions", vectors, counts, 20, seed)
        halves.append(counts[cluster < 10].sum() / counts.sum())
    assert abs(np.mean(halves) - 0.5) < 0.2 and np.std(halves) > 0.05


def test_too_many_clusters_are_refused() -> None:
    with pytest.raises(UserError, match=r"--num_clusters is 4, wanted 1 to 3"):
        assign("random", np.zeros((3, 2)), np.zeros(3, int), 4, seed=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1))
def test_consecutive_share_is_what_counting_gives(events: list[tuple]) -> None:
    events = sorted(events, key=lambda event: event[0])
    cluster = np.array([0, 0, 1, 1, 2, 2])
    pairs = [
        cluster[a[1]] == cluster[b[1]]
        for a, b in zip(events, events[1:], strict=False)
        if a[0] == b[0]
    ]
    users, items = (np.array(column) for column in zip(*events, strict=True))
    found = consecutive_share(cluster, items, users)
    assert found == pytest.approx(np.mean(pairs) if pairs else 0.0)


@settings(max_examples=20)
@given(st.data())
def test_targets_do_not_reach_the_clusters(data: st.DataObject) -> None:
    num_users, num_items = 30, 20
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    lengths = rng.integers(1, 12, num_users)
    lengths[0] = 12
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(0, num_items, offsets[-1]).astype(np.int32)
    split = leave_one_out(offsets)
    other = item.copy()
    targets = ~split.in_training(offsets)
    other[targets] = rng.integers(0, num_items, targets.sum())
    config = PrepareConfig(num_clusters=4, vector_width=5)
    catalogs = [
        make_catalog(
            Interactions(
                pa.chunked_array([np.arange(num_users)]),
                pa.table({"item": np.arange(num_items)}),
                events, None, offsets, "file_order", Counts(len(events)),
            ),
            split, config,
        )
        for events in (item, other)
    ]  # fmt: skip
    for name in ("slot", "count", "vectors"):
        first, second = (getattr(catalog, name) for catalog in catalogs)
        np.testing.assert_array_equal(first, second)
