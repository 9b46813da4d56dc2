"""Clusters against planted structure and brute force."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from eqids.config import PrepareConfig, UserError
from eqids.data.clustering.cluster_items import Clustered, make_catalog
from eqids.data.clustering.cluster_sizes import (
    assign,
    place,
    shared_numbers,
)
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.data.clustering.quality import balance, consecutive_share, random_share
from eqids.data.clustering.vectors import item_vectors
from eqids.data.info import Counts
from eqids.data.raw.interactions import Interactions
from eqids.data.raw.splits import leave_one_out


def _planted(num_groups: int = 4, per_group: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Users who each use the items of one group only."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40 * num_groups), 6)
    group = users % num_groups
    return users, group * per_group + rng.integers(0, per_group, len(users))


def test_planted_groups_are_found() -> None:
    users, items = _planted()
    vectors = item_vectors(users, items, 160, 32, 8, seed=0)
    cluster = assign("kmeans", vectors, np.zeros(32, int), 4, seed=0)
    groups = [set(cluster[g * 8 : g * 8 + 8]) for g in range(4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4


@given(
    num_items=st.integers(1, 100),
    share=st.floats(0, 1),
    width=st.integers(1, 6),
    method=st.sampled_from(["kmeans", "popularity", "random"]),
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
    slot, cluster_size = place(cluster, num_clusters)
    assert cluster_size == -(-num_items // num_clusters)
    assert len(set(slot.tolist())) == num_items
    assert (slot // cluster_size == cluster).all() and (slot >= 0).all()
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


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=64), st.integers(0, 9))
def test_halves_of_numbers_differ_by_one_load_at_most(
    loads: list[int], seed: int
) -> None:
    number = shared_numbers(np.array(loads), seed)
    assert sorted(number.tolist()) == list(range(len(loads)))
    by_number = np.empty(len(loads), int)
    by_number[number] = loads
    parts = [by_number]
    while len(parts[0]) > 1 and len(parts[0]) % 2 == 0:
        for part in parts:
            left, right = np.split(part, 2)
            assert abs(left.sum() - right.sum()) <= part.max()
        parts = [half for part in parts for half in np.split(part, 2)]


def test_every_shard_gets_its_share_of_zipf_targets() -> None:
    loads = np.random.default_rng(0).permutation(1 / np.arange(1, 769) ** 0.8)
    worst = {}
    orders = {
        "shared": shared_numbers(loads, seed=0),
        "popular": np.argsort(np.argsort(-loads)),
        "random": np.random.default_rng(1).permutation(768),
    }
    for name, number in orders.items():
        shares = np.bincount(number // 96, loads) / loads.sum()
        worst[name] = 8 * shares.max()
    assert worst["shared"] < 1.05 and worst["random"] > 1.2 and worst["popular"] > 3


@pytest.mark.parametrize(
    ("num_items", "wanted"),
    [(1, 1), (1_682, 1), (20_000, 1), (20_001, 269), (1_000_000, 3_968),
     (10_000_000, 12_672)],
)  # fmt: skip
def test_default_number_of_clusters(num_items: int, wanted: int) -> None:
    assert default_num_clusters(num_items) == wanted


@given(st.integers(1, 50_000_000), st.integers(0, 1_000_000))
def test_default_clusters_grow_divide_and_waste_little(size: int, more: int) -> None:
    num_clusters = default_num_clusters(size)
    assert 1 <= num_clusters <= size
    assert num_clusters <= default_num_clusters(size + more)
    assert num_clusters <= 512 or num_clusters % 64 == 0
    if size >= 64:
        cluster_size = -(-size // num_clusters)
        assert 1 - size / (num_clusters * cluster_size) <= 0.12


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


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(2, 30))
def test_random_share_is_the_mean_over_random_clusters(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.array([2, 2, 1])
    users = np.sort(rng.integers(0, 3, length))
    item = rng.integers(0, 5, length)
    shares = [
        consecutive_share(np.repeat([0, 1, 2], sizes)[np.array(order)], item, users)
        for order in itertools.permutations(range(5))
    ]
    assert random_share(sizes, item, users) == pytest.approx(np.mean(shares))


def test_balance_counts_the_places() -> None:
    assert balance(np.array([2, 4, 0]), 4) == {
        "smallest": 0, "largest": 4, "mean": 2.0, "empty_share": 0.5
    }  # fmt: skip


def _catalog(
    item: np.ndarray, offsets: np.ndarray, num_items: int, **flags: Any
) -> Clustered:
    """A catalog of events; items are numbers, with texts of two words."""
    numbers = np.arange(num_items)
    texts = [f"kind{n % 4} of{n % 2}" for n in numbers]
    found = Interactions(
        pa.chunked_array([np.arange(len(offsets) - 1)]),
        pa.table({"item": numbers, "title": texts, "text": texts}),
        item, None, offsets, "file_order", Counts(len(item)),
    )  # fmt: skip
    config = PrepareConfig(num_clusters=4, vector_width=5, **flags)
    return make_catalog(found, leave_one_out(offsets), config, lambda sentence: None)


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
    catalogs = [_catalog(events, offsets, num_items) for events in (item, other)]
    for name in ("slot", "count", "vectors"):
        first, second = (getattr(catalog, name) for catalog in catalogs)
        np.testing.assert_array_equal(first, second)


def _random_events() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 241, 8)
    return rng.integers(0, 20, 240).astype(np.int32), offsets


def test_clusters_of_words_hold_items_of_one_text() -> None:
    catalog = _catalog(*_random_events(), 20, cluster_vectors="words", spherical=True)
    cluster = catalog.slot // catalog.cluster_size
    assert all(len(set(cluster[kind::4])) == 1 for kind in range(4))
    info = catalog.info
    assert (info.method, info.vectors, info.spherical) == ("kmeans", "words", True)
    assert (info.smallest, info.mean, info.empty_share) == (5, 5.0, 0.0)


def test_clusters_of_the_users_vectors(tmp_path: Path) -> None:
    rows = np.zeros((20, 3), np.float32)
    rows[np.arange(20), np.arange(20) // 7] = 1 + np.arange(20) % 2
    table = {"item": np.arange(20)[::-1], "v": rows[::-1].tolist()}
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table(table), path)
    catalog = _catalog(*_random_events(), 20, cluster_vectors=str(path))
    np.testing.assert_array_equal(catalog.vectors, rows)
    assert catalog.info.vector_width == 3 and catalog.info.vectors == str(path)


def test_words_need_texts() -> None:
    item, offsets = _random_events()
    found = Interactions(
        pa.chunked_array([np.arange(30)]),
        pa.table({"item": np.arange(20), "text": [""] * 20}),
        item, None, offsets, "file_order", Counts(240),
    )  # fmt: skip
    config = PrepareConfig(cluster_vectors="words")
    with pytest.raises(UserError, match="but no item has a text: give titles"):
        make_catalog(found, leave_one_out(offsets), config, lambda sentence: None)


@pytest.mark.parametrize(("method", "number"), [("kmeans", 1), ("random", 4)])
def test_a_bar_that_does_not_move_is_closed(
    method: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqids.cli import progress
    from eqids.data.clustering import cluster_items

    bars = []

    class Bar(progress.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **{**options, "disable": False})
            bars.append(self)

    monkeypatch.setattr(cluster_items, "_LARGE", 20)
    monkeypatch.setattr(progress, "tqdm", Bar)
    item, offsets = _random_events()
    found = Interactions(
        pa.chunked_array([np.arange(30)]), pa.table({"item": np.arange(20)}),
        item, None, offsets, "file_order", Counts(240),
    )  # fmt: skip
    config = PrepareConfig(num_clusters=number, clusters=method)
    make_catalog(found, leave_one_out(offsets), config, lambda sentence: None)
    # tqdm forgets the bars that it has closed.
    assert len(bars) == 1 and bars[0] not in Bar._instances


@given(st.integers(64, 2_000_000))
def test_free_places_are_a_small_share(num_items: int) -> None:
    num_clusters = default_num_clusters(num_items)
    cluster = np.arange(num_items) % num_clusters
    slot, cluster_size = place(cluster, num_clusters, PrepareConfig().free_share)
    largest = -(-num_items // num_clusters)
    assert 0.95 * cluster_size <= largest <= cluster_size < largest + 1 + 0.06 * largest
    assert 1 - num_items / (num_clusters * cluster_size) <= 0.12
    assert cluster_size > largest or largest < 19
    assert (slot // cluster_size == cluster).all() and (
        slot % cluster_size < largest
    ).all()


def test_a_share_of_places_is_whole_places() -> None:
    for size, share, wanted in (
        (9, 0.1, 10),
        (8, 0.1, 8),
        (19, 0.05, 20),
        (5, 0.5, 10),
    ):
        assert place(np.zeros(size, int), 1, share)[1] == wanted


def test_large_catalogs_tell_memory_and_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eqids.cli.progress.SILENT_SECONDS", 1e-6)
    monkeypatch.setattr("eqids.data.clustering.cluster_items._LARGE", 20)
    reports: list[str] = []
    item, offsets = _random_events()
    found = Interactions(
        pa.chunked_array([np.arange(30)]), pa.table({"item": np.arange(20)}),
        item, None, offsets, "file_order", Counts(240),
    )  # fmt: skip
    config = PrepareConfig(num_clusters=4)
    make_catalog(found, leave_one_out(offsets), config, reports.append)
    assert re.match(r"item vectors need about [\d.]+ GB", reports[0])
    assert re.match(r"clusters need [\d.]+ GB", reports[1])
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("clustering: ") for line in lines)
    assert all(" of 18 steps, about " in line for line in lines)
