"""The bench of the loader and of recommendations, and all sections at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command, data, recommend_speed as recommend, sasrec
from bench.sections import SECTIONS
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(command, "pin", lambda cores: None)


@pytest.mark.long
def test_the_quick_bench_of_data(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    argv = ["data", "--quick", "--repetitions", "2", "--data_dir", str(dataset.path)]
    argv += ["--batch_size", "4", "--seq_len", "16", "--num_batches", "3"]
    command.main([*argv, "--json", str(path)])
    found, text = json.loads(path.read_text())["data"], capsys.readouterr().out
    for key in data.MEANINGS:
        assert f"data.{key} " in text
    rows = {row["work"]: row for row in found["rows"]}
    loader = rows[data.ITEMS]
    assert loader["units"] == 12
    assert found["rows_per_second"] == pytest.approx(12 / loader["seconds"]["median"])
    batches = TrainingBatches(dataset, BatchConfig(16, 4))
    targets = sum(np.count_nonzero(batches.batch(k).target >= 0) for k in range(3))
    assert found["targets_per_second"] == pytest.approx(
        targets / loader["seconds"]["median"]
    )
    assert found["words_targets_per_second"] > 0
    assert 0 < found["waiting_share"] < 1
    assert found["programs"] == 1


def test_sasrec_is_given_the_training_events_in_their_order(dataset: Dataset) -> None:
    events = sasrec.training_events(dataset)
    for user in range(dataset.num_users):
        own = events[events["user_id"] == user]
        history = dataset.history(user)[: dataset.train_length[user]]
        assert own["item_id"].tolist() == history.tolist()
        assert own["datetime"].is_monotonic_increasing
        assert own["datetime"].is_unique


def test_sasrec_is_as_large_as_nano() -> None:
    """262,752: parameters in RecTools 0.19 with width 96, 1,683 items, 50 positions."""
    width = sasrec.width_for(1_682 + 1 + 50, 278_325)
    assert width == 96
    assert abs(262_752 / 278_325 - 1) < 0.06


def test_an_item_has_as_many_tokens_as_its_text_has_words(dataset: Dataset) -> None:
    tokens = data.random_item_tokens(dataset, per_item=1, seed=0)
    held = dataset.item_valid.ravel()
    assert tokens.length[held].tolist() == [1] * held.sum()  # "Film 7", cut to one
    assert not tokens.length[~held].any()


@pytest.mark.long
def test_the_quick_bench_of_recommendations(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    argv = ["recommend", "--quick", "--repetitions", "2", "--users", "5"]
    command.main([*argv, "--data_dir", str(dataset.path), "--json", str(path)])
    found, text = json.loads(path.read_text())["recommend"], capsys.readouterr().out
    for key in recommend.MEANINGS:
        assert f"recommend.{key} " in text and found[key] > 0
    rows = {row["work"]: row for row in found["rows"] if row["name"] == "EqIDs"}
    graph = [row["work"] for row in found["rows"] if row["name"] == "onnxruntime"]
    assert graph == [recommend.AGAIN, recommend.MANY]
    assert {work: row["units"] for work, row in rows.items()} == {
        recommend.FIRST: 1, recommend.AGAIN: 1, recommend.MANY: 5
    }  # fmt: skip
    assert len(rows[recommend.FIRST]["timing"]["wall"]) == 1
    seconds = {work: row["seconds"]["median"] for work, row in rows.items()}
    assert found["first_ms"] == pytest.approx(1000 * seconds[recommend.FIRST])
    assert found["repeated_ms"] == pytest.approx(1000 * seconds[recommend.AGAIN])
    assert found["users_per_second"] == pytest.approx(5 / seconds[recommend.MANY])
    assert "random weights" in text


@pytest.mark.long
def test_all_sections_make_one_result_whatever_fails(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "all.json"
    sections = {name: SECTIONS[name] for name in ("recommend", "topk")}
    monkeypatch.setattr(command, "SECTIONS", sections)
    argv = ["all", "--quick", "--seed", "3", "--data_dir", str(tmp_path / "no")]
    said = refused(command.main, [*argv, "--json", str(path)], capsys)
    assert "bench recommend ended with an error" in said
    whole = json.loads(path.read_text())
    assert set(whole) == {"topk", "config", "machine", "versions", "commit"}
    assert whole["config"]["topk"]["quick"] is True
    assert whole["config"]["topk"]["seed"] == 3
    assert whole["topk"]["ratio_flat"] > 0
    said = refused(command.main, ["all", "--json", str(tmp_path / "no" / "x")], capsys)
    assert "cannot be written" in " ".join(said.split())
