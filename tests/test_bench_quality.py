"""The quality bench as a command: what it refuses, what it trains, what it keeps."""

import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command, model_quality
from bench.logged_command import run_logged
from bench.user_ranks import load_ranks
from eqids.checkpoints import best_step, read_manifest
from eqids.config import Stopped, UserError
from eqids.data import Dataset

RUN = ("--num_steps 3 --batch_size 4 --seq_len 16 --item_width 8 --eval_every 2 "
       "--warmup_steps 1")  # fmt: skip


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(command, "pin", lambda cores: None)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--data beauty", "--data beauty needs --beauty DIR, the folder of its "),
        ("--data ml-1m", "--data ml-1m needs --ml_1m DIR, the folder of its "),
        ("--data beauty --beauty TMP", "there is no interactions.parquet in it"),
        ("--data ml-1m --ml_1m TMP", "there is no interactions.csv in it"),
        ("--data books", "--data has 'books', wanted some of ml-100k, beauty, ml-1m"),
        ("--prepared mine=TMP", "TMP is not a dataset folder, see python -m"),
        ("--prepared mine", "--prepared is 'mine', wanted NAME=DIR"),
        ("--prepared beauty=TMP", "beauty is a data set that the bench prepares"),
        ("--settings best", "--settings has 'best', wanted some of default, text"),
        ("--settings frozen", "--settings frozen needs --llama_path DIR"),
        ("--settings text", "--settings text needs --text_llama_path DIR"),
        ("--setting wide", "--setting is 'wide', wanted NAME=FLAGS"),
        ("--setting a=--wide", "setting a: --wide is not a flag of python -m eqids"),
        ("--setting a=--seed=1", "setting a: --seed is given twice (0, 1)"),
        ("--setting a= a=", "two settings are called 'a'"),
        ("--settings default --setting default=", "two settings are called 'default'"),
        ("--against a", "--against is 'a', wanted a setting: default"),
        ("--against default", "--against default needs another setting beside it"),
        ("--seeds 1 1", "--seeds is 1 1, wanted each once"),
        ("--splits", "--splits is empty, wanted valid, test or both"),
        ("--output TMP/kept.md", "kept.md exists without the lines <!-- python"),
    ],
)
def test_mistakes_are_answered_before_anything_runs(
    flags: str,
    said: str,
    tmp_path: Path,
    capsys: CaptureFixture[str],
    monkeypatch: MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_quality, "run_logged", None)
    (tmp_path / "kept.md").write_text("mine")
    words = flags.replace("TMP", str(tmp_path)).split()
    found = refused(command.main, ["quality", *words], capsys)
    assert said.replace("TMP", str(tmp_path)) in found
    assert (tmp_path / "kept.md").read_text() == "mine"


def test_a_signal_to_stop_reaches_the_run_and_waits_for_it(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    (tmp_path / "saves.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log, over = tmp_path / "log", threading.Event()

    def stop() -> None:
        while not over.wait(0.01):
            if log.exists() and "ready" in log.read_text():
                os.kill(os.getpid(), 15)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Stopped, match="stopped by SIGTERM; the same command"):
            run_logged("saves", [], log)
    finally:
        over.set()
        thread.join()
    assert log.read_text() == "ready\nsaved\n"


def flags_for(dataset: Dataset, folder: Path, *more: str) -> list[str]:
    return ["quality", "--prepared", f"tiny={dataset.path}", "--seeds", "0", "1",
            "--folder", str(folder), "--json", str(folder.parent / "it.json"),
            *more]  # fmt: skip


def test_what_is_done_is_not_done_again(
    dataset: Dataset,
    finished: Path,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    """With a run that is finished already, in place of training."""
    calls: list[str] = []

    def run(module: str, words: Sequence[str], log: Path) -> int:
        given = dict(zip(words[::2], words[1::2], strict=True))
        assert (module, given["--result_split"]) == ("eqids.train", "valid")
        calls.append(f"{log.parent.name.rpartition('-')[0]}")
        if given.get("--dropout") == "0.7":
            log.write_text("error: it cannot be\n")
            return 2
        shutil.copytree(finished, given["--checkpoint_dir"])
        return 0

    ranked: list[str] = []
    kept: dict[str, Path] = {}

    def here(function: Any, *args: Any) -> None:
        if "c-seed0" in str(args):
            raise UserError("it is damaged")
        ranked.append(function.__name__)
        split = f"{function.__name__} {args[1]}"
        if split in kept:  # all runs are one
            shutil.copy(kept[split], args[-1])
            return
        function(*args)
        kept[split] = args[-1]

    monkeypatch.setattr(model_quality, "run_logged", run)
    monkeypatch.setattr(model_quality, "in_fresh_process", here)
    both = ("--setting", "a=", "b=--dropout .1", "--against", "a")
    words = flags_for(dataset, tmp_path / "runs", *both)
    command.main([*words, "--minutes", "1e-9"])
    assert not calls and "4 runs were not started" in capsys.readouterr().out
    command.main(words)
    assert calls == ["a-seed0", "b-seed0", "a-seed1", "b-seed1"]  # seed by seed
    assert ranked == ["rank_run"] * 4 + ["rank_baselines"]
    assert not [*(tmp_path / "runs").rglob("test*.npz")]
    command.main(words)
    assert len(calls) == 4 and len(ranked) == 5
    (table,) = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    step = best_step(finished)
    meta = read_manifest(finished / str(step)).meta
    assert [row["name"] for row in table["settings"]] == ["a", "b"]
    for row in table["settings"]:
        assert row["mean"]["ndcg@10"] == pytest.approx(meta["score"])
        for metrics in row["by_seed"].values():
            assert metrics["ndcg@10"] == pytest.approx(meta["score"])
            assert metrics["nll"] == pytest.approx(meta["validation"]["nll"])
        assert row["deviation"]["ndcg@10"] == pytest.approx(0, abs=1e-12)
    markov = json.loads((finished / "result.json").read_text())["markov"]
    assert table["settings"][1]["differences"]["a"]["ndcg@10"]["mean"] == 0
    command.main([*words, "--splits", "valid", "test"])
    assert len(calls) == 4 and ranked[5:] == ["rank_run"] * 4 + ["rank_baselines"]
    _, table = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    (found,) = (row for row in table["baselines"] if row["name"] == "Markov")
    assert found["mean"]["ndcg@10"] == pytest.approx(markov["filtered"]["ndcg@10"])
    words = [{"b=--dropout .1": "b=--dropout 0.7"}.get(word, word) for word in words]
    failed(words, "error: it cannot be", capsys)
    words = [{"b=--dropout 0.7": "c="}.get(word, word) for word in words]
    failed(words, "c seed 0 could not rank the valid split: it is damaged", capsys)
    assert calls[4:] == ["b-seed0", "b-seed1", "c-seed0", "c-seed1"]


def failed(words: list[str], why: str, capsys: CaptureFixture[str]) -> None:
    """Runs the bench, one of whose runs fails, while the others are reported."""
    with pytest.raises(UserError, match="runs ended with an error, see above"):
        command.main(words)
    said = capsys.readouterr().out
    assert why in said and "### tiny, valid split" in said


@pytest.mark.long
def test_two_settings_and_two_seeds_from_data_to_tables(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "tiny", num_users=12)
    page, picture = tmp_path / "page.md", tmp_path / "it.png"
    own = ("--setting", f"a={RUN}", f"b={RUN} --dropout .5")
    words = flags_for(dataset, tmp_path / "runs", *own, "--eval_users", "9")
    words += ["--output", str(page), "--plot", str(picture)]
    command.main(words)
    (table,) = json.loads((tmp_path / "it.json").read_text())["quality"]["tables"]
    assert table["num_users"] == 9
    for row in table["settings"]:
        assert set(row["by_seed"]) == {"0", "1"}
        for seed, metrics in row["by_seed"].items():
            runs = tmp_path / "runs" / "runs" / "tiny"
            (folder,) = runs.glob(f"{row['name']}-seed{seed}-*")
            found = load_ranks(folder / "valid-9-users.npz")
            hits = np.mean(found.filtered <= 10)
            assert metrics["recall@10"] == pytest.approx(hits)
            result = json.loads((folder / "checkpoints" / "result.json").read_text())
            assert result["split"] == "valid"
            kept = json.loads((folder / "run.json").read_text())
            assert kept["steps"] == 3 and kept["seconds"] > 0
            log = (folder / "train.log").read_text()
            assert f": {kept['parameters']:,} parameters train" in log
    (folder / "run.json").unlink()  # as if it had been stopped before its end
    command.main(words)
    assert "going on from step 3" in (folder / "train.log").read_text()
    assert "### tiny, valid split" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(model_quality, "run_logged", None)
    monkeypatch.setattr(model_quality, "in_fresh_process", None)
    command.main(words)
