"""Calibration: reliability against a loop, and models that are known to be wrong."""

import equinox as eqx
import numpy as np
import pytest
from models import FLOAT32, NOWHERE, tiny_model

from eqids.data import Dataset
from eqids.fit.calibration import (
    calibrated_error,
    calibration_metrics,
    list_confidence,
    num_bins,
    reliability,
)
from eqids.fit.count_likelihood import count_likelihoods
from eqids.fit.evaluation import make_ranker, target_slots, targets_of
from eqids.fit.top_lists import TopLists, make_lister, pass_over_users
from eqids.reporting.sections_probability import verdict


def drawn(
    sharpness: float, num: int = 20_000, seed: int = 0
) -> tuple[TopLists, np.ndarray]:
    """Lists of a model that sharpens the true probabilities, and next items."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((num, 30))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (true.cumsum(axis=1) < rng.random((num, 1))).sum(axis=1)
    said = np.exp(sharpness * logits)
    said /= said.sum(axis=1, keepdims=True)
    order = np.argsort(-said, axis=1)[:, :10].astype(np.int32)
    chosen = np.take_along_axis(said, order, axis=1)
    return TopLists(order, np.log(chosen).astype(np.float32)), target


def test_reliability_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.random(100)
    happened = rng.random(100) < confidence
    found = reliability(confidence, happened, bins=7)
    pairs = sorted(zip(confidence, happened, strict=True))
    error, start = 0.0, 0
    for place in range(7):
        size = 100 // 7 + (place < 100 % 7)
        part, start = pairs[start : start + size], start + size
        mean = sum(c for c, _ in part) / size
        share = sum(h for _, h in part) / size
        assert found.confidence[place] == pytest.approx(mean)
        assert found.frequency[place] == pytest.approx(share)
        error += size / 100 * abs(mean - share)
    assert found.error == pytest.approx(error)
    assert found.overconfidence == pytest.approx(confidence.mean() - happened.mean())


@pytest.mark.parametrize(
    ("num", "wanted"), [(3, 5), (249, 5), (295, 5), (400, 8), (749, 14), (20_000, 15)]
)
def test_bins_hold_fifty_users_where_there_are_enough(num: int, wanted: int) -> None:
    assert num_bins(num) == wanted
    found = reliability(np.linspace(0, 1, num), np.arange(num) % 2 == 0)
    assert found.num.sum() == num and len(found.num) == min(num, wanted)
    assert found.num.min() >= 50 or wanted == 5


def test_true_probabilities_have_the_error_of_a_calibrated_model() -> None:
    for num in (400, 20_000):
        lists, target = drawn(1.0, num)
        found = calibration_metrics(lists, target, [1, 10])
        for k in (1, 10):
            expected = found[f"calibrated_ece@{k}"]
            assert 0.4 * expected < found[f"ece@{k}"] < 2 * expected
        confidence, hits = list_confidence(lists, target, 10)
        assert verdict(reliability(confidence, hits)).startswith("no sign")
    assert calibrated_error(np.array([0.0, 1.0, 1.0])) == 0


def test_a_sharpened_model_is_overconfident_and_a_flattened_one_is_not() -> None:
    for sharpness, reading in ((2.0, "overconfident"), (0.5, "underconfident")):
        lists, target = drawn(sharpness)
        found = calibration_metrics(lists, target, [1, 5])
        for k in (1, 5):
            confidence, hits = list_confidence(lists, target, k)
            assert verdict(reliability(confidence, hits)) == reading
            assert found[f"ece@{k}"] > 10 * found[f"calibrated_ece@{k}"]


def test_sharper_logits_of_a_model_make_it_more_confident(dataset: Dataset) -> None:
    """The same lists in the same order, from a model whose item vectors are longer."""
    model = tiny_model(dataset, skip=False)
    sharp = eqx.tree_at(
        lambda m: (m.softmax.table, m.softmax.cluster_table, m.softmax.bias,
                   m.softmax.cluster_bias),
        model,
        replace_fn=lambda x: 40 * x,
    )  # fmt: skip
    ranker, lister = make_ranker(12, FLOAT32, NOWHERE), make_lister(NOWHERE, k=30)
    target = target_slots(dataset, "test")
    readings = []
    for one in (model, sharp):
        found = pass_over_users(one, dataset, "test", ranker, lister).unfiltered
        confidence, hits = list_confidence(found, target, 10)
        readings.append((reliability(confidence, hits), hits.mean()))
    (plain, _), (sharpened, hits) = readings
    # Histories are random: the true probability of any ten items is about 10 / 27.
    assert plain.overconfidence < 0.2 < sharpened.overconfidence
    assert sharpened.error > plain.error and hits < 0.7
    assert verdict(sharpened) == "overconfident"


def test_the_confidence_of_a_list_is_the_sum_of_its_probabilities(
    dataset: Dataset,
) -> None:
    model = tiny_model(dataset)
    ranker, lister = make_ranker(12, FLOAT32, NOWHERE), make_lister(NOWHERE, k=30)
    found = pass_over_users(model, dataset, "test", ranker, lister)
    target = target_slots(dataset, "test")
    everything, hits = list_confidence(found.unfiltered, target, 27)
    np.testing.assert_allclose(everything, 1.0, atol=1e-5)
    assert hits.all()
    some, _ = list_confidence(found.filtered, target, 3)
    assert found.filtered.log_probs is not None
    wanted = np.exp(found.filtered.log_probs[:, :3]).sum(axis=1)
    np.testing.assert_allclose(some, wanted, rtol=1e-6)


def test_likelihoods_of_counts_are_those_of_a_loop(dataset: Dataset) -> None:
    found = count_likelihoods(dataset, "test")
    valid = np.flatnonzero(dataset.item_valid)
    assert found.uniform == pytest.approx(np.log(len(valid)))
    counts = dataset.item_counts.reshape(-1)
    total = counts[valid].sum() + len(valid)
    follows = np.zeros((dataset.num_slots, dataset.num_slots))
    for user in range(dataset.num_users):
        past = dataset.history(user)[: dataset.train_length[user]]
        for i, slot in enumerate(past):
            for distance, after in enumerate(past[i + 1 : i + 6], start=1):
                follows[slot, after] += 1 / distance
    follows /= np.maximum(follows.sum(axis=1, keepdims=True), 1e-9)

    def probabilities(split: str) -> tuple[np.ndarray, np.ndarray]:
        users, positions = targets_of(dataset, split)  # type: ignore[arg-type]
        chain, popular = [], []
        for user, at in zip(users.tolist(), positions, strict=True):
            history = dataset.history(user)
            weights = np.zeros(dataset.num_slots)
            for distance, slot in enumerate(history[:at][::-1][:5], start=1):
                weights += follows[slot] / distance
            p = (counts[history[at]] + 1) / total
            popular.append(p)
            chain.append(
                weights[history[at]] / weights.sum() if weights.sum() > 0 else p
            )
        return np.array(chain), np.array(popular)

    def nll(weight: float, split: str) -> float:
        chain, popular = probabilities(split)
        return float(-np.log(weight * chain + (1 - weight) * popular).mean())

    assert found.popularity == pytest.approx(nll(0.0, "test"))
    assert found.markov == pytest.approx(nll(found.markov_weight, "test"), rel=1e-4)
    around = [nll(w, "valid") for w in (found.markov_weight, 0.0, 0.3, 0.6, 0.9)]
    assert min(around) == pytest.approx(around[0], abs=1e-6)
