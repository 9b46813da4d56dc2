"""The card that `eqids-to-hf` writes: what it says, and where that comes from."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from folders import write_hf
from runs import save_noisy

from convert import __main__ as command
from eqids.config import TrainConfig
from eqids.data import Dataset, open_dataset
from eqids.data.info import render_info

METRICS = ("recall@10", "ndcg@10", "mrr@10", "recall@50")


def card_of(run: Path, out: Path, *more: str) -> tuple[dict[str, Any], str]:
    """Exports a run; returns the metadata of its card, and the rest."""
    command.main(["eqids-to-hf", str(run), str(out), *more])
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def over_llama(folder: Path, dataset: Dataset, llama: Path | None = None) -> Path:
    """Saves a run over a frozen Llama, which is written if there is none."""
    if llama is None:
        llama = folder / "llama"
        write_hf(llama)
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16,
        train="heads", llama_path=llama,
    )  # fmt: skip
    save_noisy(folder / "run", flags, dataset)
    return folder / "run"


def values(first: float) -> dict[str, dict[str, float]]:
    """Metrics that differ from one another."""
    names = {name: round(first + n / 100, 4) for n, name in enumerate(METRICS)}
    return {
        "filtered": names,
        "unfiltered": {name: one / 2 for name, one in names.items()},
    }


def write_result(run: Path, dataset: Dataset, step: int) -> dict[str, Any]:
    """Writes what a run writes of its best step."""
    result = {
        "split": "test", "num_users": 31, "step": step, **values(0.3),
        "popularity": values(0.1), "markov": values(0.2),
        "protocol": {"dataset_hash": dataset.info.dataset_hash},
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    return result


def test_the_metrics_of_a_run_are_those_of_its_card(
    copy: Dataset, tmp_path: Path
) -> None:
    info = dataclasses.replace(copy.info, source="csv:/home/me/secret/plays.csv")
    (copy.path / "dataset.json").write_text(render_info(info))
    run = over_llama(tmp_path, open_dataset(copy.path))
    front, text = card_of(run, tmp_path / "none")
    assert "model-index" not in front and "was not evaluated" in text
    result = write_result(run, copy, step=4)
    front, text = card_of(run, tmp_path / "shop", "--license", "cc-by-nc-4.0")
    assert front["license"] == "cc-by-nc-4.0" and front["library_name"] == "eqids"
    assert "datasets" not in front and "base_model" not in front
    (model,) = front["model-index"]
    (found,) = model["results"]
    assert model["name"] == "shop" and found["dataset"]["split"] == "test"
    assert found["dataset"]["args"]["split"] == "leave_one_out"
    assert found["dataset"]["args"]["num_users"] == 31
    assert {one["type"]: one["value"] for one in found["metrics"]} == {
        name: result["filtered"][name] for name in METRICS[:3]
    }
    assert "| this model | 0.3000 | 0.3100 | 0.3200 | 0.3300 |" in text
    assert "| Markov | 0.2000 | 0.2100 | 0.2200 | 0.2300 |" in text
    assert "EASE" not in text
    assert "Recall@10 0.1500, NDCG@10 0.1550, MRR@10 0.1600" in text
    assert f"{info.num_events:,} events" in text
    assert str(tmp_path) not in text and "secret" not in text
    write_result(run, copy, step=3)
    front, text = card_of(run, tmp_path / "other")
    assert "model-index" not in front and "was not evaluated" in text


def test_a_run_that_ended_early_shows_validation(
    finished: Path, tmp_path: Path
) -> None:
    result = json.loads((finished / "result.json").read_text())
    front, text = card_of(finished, tmp_path / "best")
    assert "trained from scratch" in text and "base_model" not in front
    (found,) = front["model-index"][0]["results"]
    assert found["dataset"]["split"] == "test"
    assert found["metrics"][1]["value"] == round(result["filtered"]["ndcg@10"], 5)
    step = next(one for one in (20, 40) if one != result["step"])
    front, text = card_of(finished / str(step), tmp_path / "other")
    (found,) = front["model-index"][0]["results"]
    assert found["dataset"]["split"] == "validation" and "are optimistic" in text
    manifest = json.loads((finished / str(step) / "manifest.json").read_text())
    expected = round(manifest["meta"]["validation"]["filtered"]["mrr@10"], 5)
    assert found["metrics"][2]["value"] == expected


@pytest.mark.parametrize("cached", [False, True])
def test_a_card_inherits_no_licence(
    cached: bool, dataset: Dataset, tmp_path: Path
) -> None:
    llama = tmp_path / "llama"
    if cached:
        llama = tmp_path / "hub/models--some--Llama-1B/snapshots/c0ffee"
        llama.parent.mkdir(parents=True)
    write_hf(llama)
    (llama / "README.md").write_text("---\nlicense: apache-2.0\n---\nA Llama.\n")
    (llama / "LICENSE").write_text("The licence of a Llama.")
    run = over_llama(tmp_path, dataset, llama)
    front, text = card_of(run, tmp_path / "out")
    assert front["license"] == "unknown" and "Whoever publishes" in text
    assert "A Llama." not in text and "`LICENSE`" in text
    assert (tmp_path / "out/LICENSE").read_text() == "The licence of a Llama."
    assert front.get("base_model") == ("some/Llama-1B" if cached else None)
    assert ("some/Llama-1B, frozen" in text) == cached
    assert ("was not recorded: add `base_model`" in text) != cached
    assert str(tmp_path) not in text
