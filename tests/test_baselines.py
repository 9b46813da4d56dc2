"""ItemKNN and EASE against loops, the cache of ranks, and what a result says."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest import CaptureFixture

from eqids import evaluate
from eqids.checkpoints import read_manifest
from eqids.data import Dataset
from eqids.fit import baseline_ranks as module
from eqids.fit.baseline_ranks import (
    BASELINES,
    baseline_metrics,
    baseline_ranks,
    ranks_by,
)
from eqids.fit.ease import ease, item_weights, penalty
from eqids.fit.evaluation import Chunk, Evaluation, chunks, of_some_users
from eqids.fit.item_knn import item_knn
from eqids.fit.results import Validated, full_result, table
from eqids.fit.training_matrix import TrainingMatrix, recency_weights
from eqids.inference.open import open_checkpoint
from sharding import Placement


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept ranks, empty."""
    monkeypatch.setenv("EQIDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "baselines"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of the tiny dataset are computed in several blocks."""
    monkeypatch.setattr("eqids.fit.training_matrix.BLOCK", 8)
    monkeypatch.setattr("eqids.fit.ease.BLOCK", 8)


def last_at(history: np.ndarray) -> dict[int, int]:
    """The distance of each item of a history from its end, by a loop."""
    found: dict[int, int] = {}
    for distance, slot in enumerate(history[::-1].tolist(), start=1):
        found.setdefault(slot, distance)
    return found


def users_of_items(dataset: Dataset) -> dict[int, set[int]]:
    """Who has which item among the training events, by slots, ascending."""
    found: dict[int, set[int]] = {}
    for user, length in enumerate(dataset.train_length):
        for slot in dataset.history(user)[:length].tolist():
            found.setdefault(slot, set()).add(user)
    return dict(sorted(found.items()))


def assert_scores(
    scores: np.ndarray, chunk: Chunk, weights: np.ndarray, power: int, valid: np.ndarray
) -> None:
    """Holds scores of valid items to sums of weights over histories, by loops."""
    assert (scores[:, ~valid] == -np.inf).all()
    for row, history in enumerate(chunk.histories):
        expected = sum(weights[s] / d**power for s, d in last_at(history).items())
        np.testing.assert_allclose(scores[row, valid], expected[valid], atol=5e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("most", [3, 100])
def test_item_knn_equals_loops_over_sets_of_users(
    most: int, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqids.fit.item_knn.NEIGHBOURS", most)
    users = users_of_items(dataset)
    weights = np.zeros((dataset.num_slots, dataset.num_slots), np.float32)
    for slot, mine in users.items():
        found = []
        for other, theirs in users.items():
            # In float32, as equal cosines compete for the last places.
            root = [np.sqrt(np.float32(len(who))) for who in (mine, theirs)]
            cosine = np.float32(len(mine & theirs)) / root[0] / root[1]
            if other != slot and cosine > 0:
                found.append((-cosine, other))
        for negative, other in sorted(found)[:most]:
            weights[slot, other] = -negative
    assert np.count_nonzero(weights[np.array([*users])], axis=1).max() <= most
    (chunk,) = chunks(dataset, "test")
    valid = dataset.item_valid.reshape(-1)
    assert_scores(item_knn(dataset)(chunk), chunk, weights, 2, valid)


@pytest.mark.usefixtures("small_blocks")
def test_ease_equals_a_ridge_regression_for_each_item(dataset: Dataset) -> None:
    users, matrix = users_of_items(dataset), TrainingMatrix.of(dataset)
    x = np.zeros((dataset.num_users, len(users)))
    for item, who in enumerate(users.values()):
        x[sorted(who), item] = 1
    np.testing.assert_array_equal(matrix.users.toarray(), x)
    np.testing.assert_array_equal(matrix.slots, [*users])
    for weight in (penalty(matrix), 0.5):
        found = item_weights(matrix, weight)
        for item in range(len(users)):
            # The item's own column is left out, so that its weight is 0.
            others = np.delete(x, item, axis=1)
            rows = np.vstack([others, np.sqrt(weight) * np.eye(len(users) - 1)])
            goal = np.append(x[:, item], np.zeros(len(users) - 1))
            expected = np.linalg.lstsq(rows, goal, rcond=None)[0]
            expected = np.insert(expected, item, 0.0)
            np.testing.assert_allclose(found[:, item], expected, atol=5e-6)
    weights = np.zeros((dataset.num_slots, dataset.num_slots))
    weights[np.ix_(matrix.slots, matrix.slots)] = item_weights(matrix, penalty(matrix))
    (chunk,) = chunks(dataset, "test")
    valid = dataset.item_valid.reshape(-1)
    assert_scores(ease(dataset)(chunk), chunk, weights, 1, valid)


def test_a_repeated_item_weighs_as_its_newest_event() -> None:
    found = recency_weights([np.array([3, 1, 3, 0]), np.array([2])], 5, 2.0).toarray()
    np.testing.assert_allclose(found, [[1, 1 / 9, 0, 1 / 4, 0], [0, 0, 1, 0, 0]])


def test_ranks_are_kept_until_something_changes(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    expected = ranks_by(ease(dataset), dataset, "test")

    def computed(dataset: Dataset, *splits: Any) -> bool:
        said.clear()
        wanted = [(dataset, split) for split in splits]
        found = baseline_ranks("ease", wanted, said.append)
        for (one, split), ranks in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(ranks, ranks_by(ease(one), one, split))
        assert len(said) <= 1  # made once, whatever the number of splits
        return bool(said)

    assert computed(dataset, "test", "valid")
    assert not computed(dataset, "test", "valid")
    assert len([*cache.iterdir()]) == 2
    assert computed(of_some_users(dataset, 7), "test")
    other = replace(dataset, info=replace(dataset.info, dataset_hash="f" * 64))
    assert computed(other, "test")
    monkeypatch.setattr("eqids.fit.rank_cache.DEFINITION", 0)
    assert computed(dataset, "test")
    monkeypatch.undo()
    assert expected.shape == (dataset.info.counts.users_test, 2)


def test_a_damaged_cache_is_computed_again(dataset: Dataset, cache: Path) -> None:
    wanted: Any = [(dataset, "test")]
    (expected,) = baseline_ranks("markov", wanted)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    (other,) = baseline_ranks("popularity", wanted)
    (elsewhere,) = (path for path in cache.iterdir() if path != file)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", whole[:-8], flipped, elsewhere.read_bytes()):
        file.write_bytes(content)
        np.testing.assert_array_equal(baseline_ranks("markov", wanted)[0], expected)
        assert file.read_bytes() == whole
    assert (expected != other).any()


def test_without_a_cache_baselines_are_computed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EQIDS_CACHE", str(tmp_path / "file"))
    (found,) = baseline_ranks("markov", [(dataset, "test")])
    expected = ranks_by(BASELINES["markov"].scorer(dataset), dataset, "test")
    np.testing.assert_array_equal(found, expected)


def of_model(dataset: Dataset, ndcg: float) -> Evaluation:
    """An evaluation of a model on validation with a given NDCG@10."""
    ranks = np.full((dataset.info.counts.users_valid, 2), 3.0)
    found = baseline_metrics(ranks)["filtered"]
    return {
        "split": "valid",
        "num_users": len(ranks),
        "filtered": {**found, "ndcg@10": ndcg},
        "unfiltered": found,
        "nll": 5.0,
        "seen_target_share": 0.0,
    }


def test_a_model_behind_baselines_says_so_in_one_line(dataset: Dataset) -> None:
    def result(ndcg: float) -> dict[str, Any]:
        model = of_model(dataset, ndcg)
        return full_result(dataset, "valid", model, 1, None, lambda text: None)

    first = result(1.0)
    assert first["behind"] == [] and "behind" not in table(first)
    scores = {name: first[name]["filtered"]["ndcg@10"] for name in BASELINES}
    assert first["valid_ndcg@10"] == {"eqids": 1.0, **scores}
    best, second = sorted(BASELINES, key=lambda name: -scores[name])[:2]
    assert scores[best] > scores[second] > 0
    between = (scores[best] + scores[second]) / 2
    assert result(scores[best])["behind"] == []  # as good is not behind
    one = result(between)
    assert one["behind"] == [best]
    assert table(one).splitlines()[-1] == (
        f"behind counting: {BASELINES[best].label} has NDCG@10 "
        f".{scores[best] * 1e4:04.0f} on validation, this model .{between * 1e4:04.0f}"
    )
    every = result(-1.0)
    assert every["behind"] == [*BASELINES]
    line = table(every).splitlines()[-1]
    assert line.startswith(f"behind counting: {BASELINES[best].label} has NDCG@10 .")
    assert all(line.count(one.label) == 1 for one in BASELINES.values())


def test_a_test_result_compares_on_the_users_of_validation(dataset: Dataset) -> None:
    model: Evaluation = {**of_model(dataset, 0.5), "split": "test"}
    few = of_some_users(dataset, 7)
    found = full_result(dataset, "test", model, 1, Validated(few, 0.25), print)
    valid = full_result(few, "valid", of_model(few, 0.25), 1, None, print)
    assert found["valid_ndcg@10"] == valid["valid_ndcg@10"]
    assert found["behind"] == valid["behind"]
    assert found["markov"] != valid["markov"]
    unknown = full_result(dataset, "test", model, 1, None, print)
    assert unknown["behind"] is None and unknown["valid_ndcg@10"] is None
    assert table(unknown) in table({**found, "behind": []})


@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [
        ("MOST_ITEMS", 26, "27 items have training events, more than 26"),
        ("MOST_PAIRS", 1000, "the users have .* pairs of items, more than 1.0e"),
    ],
)
def test_large_datasets_leave_pairwise_baselines_out(
    limit: str, most: int, reason: str, dataset: Dataset, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, limit, most)
    model = of_model(dataset, 0.0)
    result = full_result(dataset, "valid", model, 1, None, lambda text: None)
    assert "item_knn" not in result and "ease" not in result
    assert result["left_out"].keys() == {"item_knn", "ease"}
    assert result["behind"] == ["popularity", "markov"]
    text = table(json.loads(json.dumps(result)))
    for name in ("ItemKNN", "EASE"):
        (line,) = (line for line in text.splitlines() if name in line)
        assert line.startswith(f"no baseline {name}: ")
    assert all(re.match(reason, said) for said in result["left_out"].values())
    monkeypatch.setattr(module, limit, 2**34)
    assert module.why_left_out("ease", dataset) is None


def test_a_run_and_evaluate_compare_its_best_step_on_validation(
    finished: Path, capsys: CaptureFixture[str], tmp_path: Path
) -> None:
    result = json.loads((finished / "result.json").read_text())
    scores = result["valid_ndcg@10"]
    meta = read_manifest(finished / str(result["step"])).meta
    assert scores["eqids"] == meta["score"] and scores.keys() - BASELINES == {"eqids"}
    better = [name for name in BASELINES if scores[name] > scores["eqids"]]
    assert result["behind"] == better
    file = tmp_path / "valid.json"
    flags = ["--split", "valid", "--json", str(file)]
    evaluate.main(["--checkpoint", str(finished), *flags])
    valid = json.loads(file.read_text())
    assert valid["behind"] == better
    for name in BASELINES:
        assert valid[name]["filtered"]["ndcg@10"] == scores[name]
    said = capsys.readouterr().out
    assert ("behind counting: " in said) == bool(better)


def test_a_score_of_another_dataset_is_not_compared(
    finished: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Any:
        return open_checkpoint(finished, None, None, Placement(None, None))

    known = opened().validated
    step = json.loads((finished / "result.json").read_text())["step"]
    assert known.ndcg == read_manifest(finished / str(step)).meta["score"]
    other = replace(dataset, info=replace(dataset.info, dataset_hash="f" * 64))
    monkeypatch.setattr("eqids.inference.open.dataset_of", lambda *_: other)
    assert opened().validated is None
