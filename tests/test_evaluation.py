"""Ranks, metrics and baselines against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from models import FLOAT32, NOWHERE, tiny_model

from eqids.config import MARKOV_ORDER
from eqids.data import Dataset
from eqids.data.batches.training_batches import query_batch
from eqids.fit.baseline_ranks import ranks_by
from eqids.fit.baselines import markov, popularity
from eqids.fit.evaluation import Split, chunks, evaluate, make_ranker, of_some_users
from eqids.fit.ranking import metrics, ranks_of_scores
from eqids.model import Batch


@given(
    st.lists(st.integers(-3, 3), min_size=2, max_size=12),
    st.integers(0, 11),
    st.sets(st.integers(0, 11)),
)
def test_ranks_are_those_of_a_sorted_list(
    values: list[int], target: int, seen: set[int]
) -> None:
    scores = [float(v) for v in values]
    target, seen = target % len(scores), {s for s in seen if s < len(scores)}

    def rank(among: list[int]) -> float:
        above = sum(scores[s] > scores[target] for s in among)
        ties = sum(scores[s] == scores[target] for s in among if s != target)
        return 1 + above + ties / 2

    everything = list(range(len(scores)))
    left = [s for s in everything if s not in seen]
    expected = [np.inf if target in seen else rank(left), rank(everything)]
    padded = np.full(12, len(scores))
    padded[: len(seen)] = sorted(seen)
    found = ranks_of_scores(
        jnp.array([scores]), jnp.array([target]), jnp.array([padded])
    )
    np.testing.assert_array_equal(found[0], expected)


def test_a_score_that_is_no_number_ranks_last() -> None:
    scores = jnp.array([[jnp.nan, 1.0, 2.0], [jnp.nan] * 3])
    found = ranks_of_scores(scores, jnp.array([0, 1]), jnp.full((2, 1), 3))
    assert np.all(np.asarray(found) >= 3)


def test_metrics_by_hand() -> None:
    found = metrics(np.array([1.0, 2.5, 12.0, np.inf]))
    assert found["recall@1"] == 0.25 and found["recall@10"] == 0.5
    assert found["recall@20"] == 0.75 and found["mrr@10"] == (1 + 1 / 2.5) / 4
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3.5)) / 4)
    assert found["ndcg@50"] == pytest.approx(
        (1 + 1 / np.log2(3.5) + 1 / np.log2(13)) / 4
    )


def test_evaluation_equals_brute_force_over_every_user(dataset: Dataset) -> None:
    model = tiny_model(dataset)
    ranker = make_ranker(12, FLOAT32, NOWHERE)

    @jax.jit
    def log_probs(batch: Batch, position: int) -> jax.Array:
        return model.softmax.log_probs(model.queries(batch)[0, position])

    for split_name, position in (
        ("valid", dataset.valid_at),
        ("test", dataset.test_at),
    ):
        result = evaluate(model, dataset, split_name, ranker)
        found, nll = [], []
        for user in np.flatnonzero(position > 0):
            past = slice(dataset.offsets[user], dataset.offsets[user] + position[user])
            history, target = dataset.slots[past], dataset.slots[past.stop]
            batch = Batch.of(query_batch([history], [dataset.times[past]], 12))
            scores = np.array(log_probs(batch, min(len(history), 12) - 1))
            nll.append(-scores[target])
            above = [np.sum(scores > scores[target])]
            scores[np.setdiff1d(history, [target])] = -np.inf
            above.insert(0, np.sum(scores > scores[target]))
            found.append([1 + a for a in above])
            if target in history:
                found[-1][0] = np.inf
        expected = np.array(found, float)
        assert result["num_users"] == len(expected) == dataset.info.counts.users_test
        assert result["filtered"] == pytest.approx(metrics(expected[:, 0]))
        assert result["unfiltered"] == pytest.approx(metrics(expected[:, 1]))
        assert result["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
        assert result["seen_target_share"] == np.isinf(expected[:, 0]).mean() > 0


def test_the_test_history_includes_the_validation_item(dataset: Dataset) -> None:
    for valid, test in zip(
        chunks(dataset, "valid"), chunks(dataset, "test"), strict=True
    ):
        for one, two, target in zip(
            valid.histories, test.histories, valid.target, strict=True
        ):
            np.testing.assert_array_equal(two, np.append(one, target))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_some_users_are_the_same_ones_each_time(dataset: Dataset, split: Split) -> None:
    def targets(dataset: Dataset) -> list[int]:
        users = np.flatnonzero(getattr(dataset, f"{split}_at") > 0)
        return [int(user) for user in users]

    some, everyone = targets(of_some_users(dataset, 7)), targets(dataset)
    assert len(some) == 7 and set(some) < set(everyone)
    assert some == targets(of_some_users(dataset, 7)) != everyone[:7]
    assert of_some_users(dataset, None) is dataset
    assert targets(of_some_users(dataset, 10**6)) == everyone
    ranks = ranks_by(popularity(dataset), dataset, split)
    rows = np.searchsorted(everyone, some)
    few = ranks_by(popularity(dataset), of_some_users(dataset, 7), split)
    np.testing.assert_array_equal(few, ranks[rows])


@pytest.mark.parametrize("events", [1, 7, 10**6])
def test_baselines_equal_loops_over_training_events(
    events: int, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqids.data.transitions._CHUNK", events)
    trained = [dataset.history(u)[:n] for u, n in enumerate(dataset.train_length)]
    counts = np.zeros(dataset.num_slots)
    follows = np.zeros((dataset.num_slots, dataset.num_slots))
    for history in trained:
        for i, slot in enumerate(history):
            counts[slot] += 1
            for j in range(i + 1, min(i + MARKOV_ORDER, len(history) - 1) + 1):
                follows[slot, history[j]] += 1 / (j - i)
    follows /= np.maximum(follows.sum(axis=1, keepdims=True), 1e-9)
    (chunk,) = chunks(dataset, "test")
    held = dataset.item_valid.reshape(-1)
    expected = np.where(held, counts, -np.inf)
    np.testing.assert_array_equal(popularity(dataset)(chunk)[0], expected)
    scores = markov(dataset)(chunk)
    for row, history in enumerate(chunk.histories):
        recent = history[::-1][:MARKOV_ORDER]
        total = sum(follows[s] / d for d, s in enumerate(recent, start=1))
        np.testing.assert_allclose(scores[row][held], total[held], atol=2e-6)
