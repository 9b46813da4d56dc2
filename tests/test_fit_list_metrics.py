"""Metrics of recommended lists against plain loops, by RecTools' definitions."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from hypothesis import given, strategies as st
from models import FLOAT32, NOWHERE, log_probs_at, tiny_model

from eqids.data import Dataset
from eqids.data.batches.training_batches import query_batch
from eqids.fit.baselines import markov, popularity
from eqids.fit.evaluation import chunks, make_ranker, rank_users, targets_of
from eqids.fit.list_metrics import (
    LIST_METRICS,
    OVER_USERS,
    CatalogFacts,
    gini,
    list_metrics,
)
from eqids.fit.top_lists import lists_by, make_lister, pass_over_users
from eqids.model import Batch

Lists = Sequence[Sequence[int]]


def training_pairs(dataset: Dataset) -> list[tuple[int, int]]:
    """(user, slot) of every training event."""
    return [
        (user, int(slot))
        for user in range(dataset.num_users)
        for slot in dataset.history(user)[: dataset.train_length[user]]
    ]


def by_loops(
    dataset: Dataset, lists: Lists, target: Sequence[int], k: int
) -> dict[str, float]:
    """All metrics as their definitions say, one user and one item at a time."""
    pairs = training_pairs(dataset)
    events = Counter(slot for _, slot in pairs)
    users_of = Counter(slot for _, slot in set(pairs))
    num_users = len({user for user, _ in pairs})
    num_items = int(dataset.item_valid.sum())
    counts = sorted(set(events.values()), reverse=True)
    vectors = dataset.item_vectors.reshape(dataset.num_slots, -1).astype(float)

    def chance(rank: int) -> float:
        return (num_items + 1 - rank) / num_items

    found: dict[str, list[float]] = {name: [] for name in OVER_USERS}
    for own, goal in zip(lists, target, strict=True):
        top = [slot for slot in own[:k] if slot >= 0]
        hits = [slot == goal for slot in top]
        found["hit_rate"].append(float(any(hits)))
        found["precision"].append(sum(hits) / k)
        precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(top)) if hits[i]]
        found["map"].append(sum(precisions))
        if not top:
            continue
        novelty = [-math.log2(max(users_of[s], 1) / num_users) for s in top]
        found["novelty"].append(sum(novelty) / len(top))
        found["popularity"].append(sum(events[s] for s in top) / len(top))
        surprises = [
            max(chance(place) - (chance(1 + counts.index(events[s])) if events[s]
                                 else 0.0), 0.0) * (s == goal)
            for place, s in enumerate(top, start=1)
        ]  # fmt: skip
        found["serendipity"].append(sum(surprises) / len(top))
        distances = [
            1 - vectors[a] @ vectors[b]
            / (np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b]))
            for a, b in itertools.combinations(top, 2)
        ]  # fmt: skip
        found["diversity"].append(sum(distances) / len(distances) if distances else 0.0)
    means = {f"{n}@{k}": sum(v) / len(v) if v else math.nan for n, v in found.items()}
    exposure = Counter(slot for own in lists for slot in own[:k] if slot >= 0)
    shares = [exposure[s] for s in np.flatnonzero(dataset.item_valid).tolist()]
    means[f"coverage@{k}"] = sum(n > 0 for n in shares) / num_items
    between = sum(abs(a - b) for a in shares for b in shares)
    means[f"gini@{k}"] = between / (2 * num_items * max(sum(shares), 1))
    return means


def test_metrics_are_those_of_loops(dataset: Dataset) -> None:
    rng, items = np.random.default_rng(3), np.flatnonzero(dataset.item_valid)
    lists = np.full((30, 10), -1, np.int32)
    for row, length in enumerate(rng.integers(0, 11, 30)):
        lists[row, :length] = rng.choice(items, length, replace=False)
    lists[0], lists[1, 1:] = -1, -1
    target = rng.choice(items, 30)
    listed = lists[:, 2]
    target = np.where((listed >= 0) & (rng.random(30) < 0.8), listed, target)
    facts = CatalogFacts.of(dataset)
    found = list_metrics(lists, target, facts, list(LIST_METRICS), [1, 5, 10])
    assert len(found) == 3 * len(LIST_METRICS)
    for k in (1, 5, 10):
        wanted = by_loops(dataset, lists.tolist(), target.tolist(), k)
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_lists_for_nobody_have_no_mean(dataset: Dataset) -> None:
    none, facts = np.full((3, 5), -1, np.int32), CatalogFacts.of(dataset)
    found = list_metrics(none, np.zeros(3, int), facts, list(LIST_METRICS), [5])
    assert math.isnan(found["novelty@5"]) and found["hit_rate@5"] == 0
    assert found["coverage@5"] == found["gini@5"] == 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_the_mean_difference(exposure: list[int]) -> None:
    counts, num = np.array(exposure), len(exposure)
    between = np.abs(counts[:, None] - counts).sum()
    wanted = between / (2 * num * counts.sum()) if counts.any() else 0.0
    assert gini(counts, num) == pytest.approx(wanted)
    # Items that are in no list count too.
    more = np.abs(np.pad(counts, (0, 5))[:, None] - np.pad(counts, (0, 5))).sum()
    wanted = more / (2 * (num + 5) * counts.sum()) if counts.any() else 0.0
    assert gini(counts, num + 5) == pytest.approx(wanted)


def test_lists_of_a_model_are_its_most_probable_items(dataset: Dataset) -> None:
    model = tiny_model(dataset)
    ranker, lister = make_ranker(12, FLOAT32, NOWHERE), make_lister(NOWHERE, k=8)
    found = pass_over_users(model, dataset, "test", ranker, lister)
    ranked = rank_users(model, dataset, "test", ranker)
    np.testing.assert_array_equal(found.ranked, ranked)
    users, positions = targets_of(dataset, "test")
    assert dataset.times is not None
    for row in range(0, len(users), 3):
        start = dataset.offsets[users[row]]
        past = slice(start, start + positions[row])
        history = dataset.slots[past]
        batch = Batch.of(query_batch([history], [dataset.times[past]], 12))
        scores = np.array(log_probs_at(model, batch, min(len(history), 12) - 1))
        for lists, left_out in ((found.unfiltered, []), (found.filtered, history)):
            left = scores.copy()
            left[left_out] = -np.inf
            order = np.argsort(-left, kind="stable")[:8]
            wanted = np.where(left[order] > -np.inf, order, -1)
            np.testing.assert_array_equal(lists.slots[row], wanted)
            assert lists.log_probs is not None
            np.testing.assert_allclose(lists.log_probs[row], left[order], rtol=1e-4)


def test_lists_of_baselines_have_the_best_scores(dataset: Dataset) -> None:
    for scorer in (popularity(dataset), markov(dataset)):
        found = lists_by(scorer, dataset, "valid", k=40).slots
        (chunk,) = chunks(dataset, "valid")
        scores = np.array(scorer(chunk))[: chunk.num_users]
        for row, history in enumerate(chunk.histories[: chunk.num_users]):
            scores[row, history] = -np.inf
            listed = found[row][found[row] >= 0]
            assert set(listed) == set(np.flatnonzero(scores[row] > -np.inf))
            assert np.all(np.diff(scores[row][listed]) <= 0)
            assert not np.isin(listed, history).any()


def test_the_facts_count_distinct_users(dataset: Dataset) -> None:
    facts, pairs = CatalogFacts.of(dataset), training_pairs(dataset)
    assert len(set(pairs)) < len(pairs)
    users = Counter(slot for _, slot in set(pairs))
    wanted = [users[slot] for slot in range(dataset.num_slots)]
    np.testing.assert_array_equal(facts.users, wanted)
    assert facts.num_users == len({user for user, _ in pairs})
    assert jax.numpy.asarray(facts.events).sum() == len(pairs)
