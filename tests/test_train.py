"""The train command: results, stages, signals, stopping, the main job."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from pytest import CaptureFixture
from runs import once, refused, small

import eqids
from eqids import checkpoint, evaluate, prepare, train
from eqids.checkpoints import Saver, read_manifest, steps
from eqids.data import Dataset, open_dataset


def test_a_run_leaves_checkpoints_metrics_and_a_result(finished: Path) -> None:
    assert steps(finished) == [20, 40]
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    assert [x["step"] for x in lines if "valid_ndcg@10" in x] == [20, 40]
    result = json.loads((finished / "result.json").read_text())
    scores = {s: read_manifest(finished / str(s)).meta["score"] for s in (20, 40)}
    assert scores[result["step"]] == max(scores.values())
    assert result["split"] == "test"
    names = {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 5, 10, 20, 50)}
    baselines = [result[n] for n in ("popularity", "markov", "item_knn", "ease")]
    for part in (result, *baselines):
        assert set(part["filtered"]) == set(part["unfiltered"]) == names
    assert result["protocol"]["candidates"] == "full catalog"
    assert {"num_users", "nll", "seen_target_share", "step"} <= set(result)


def test_typing_a_finished_run_again_trains_nothing(
    dataset: Dataset, finished: Path, capsys: CaptureFixture[str]
) -> None:
    before = (finished / "metrics.jsonl").read_text()
    train.main(small(dataset.path, finished))
    assert (finished / "metrics.jsonl").read_text() == before
    assert "going on from step 40" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "1"], "--seed 0, this run has 1"),
        (["--seq_len", "8"], "--seq_len 16, this run has 8"),
        (["--freeze_llama"], "--train all, this run has heads"),
    ],
)
def test_another_run_does_not_resume_this_one(
    more: list[str],
    said: str,
    dataset: Dataset,
    finished: Path,
    capsys: CaptureFixture[str],
) -> None:
    assert said in refused(train.main, small(dataset.path, finished, *more), capsys)


@pytest.mark.long
def test_two_stages_frozen_first_then_all_of_it(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    train.main(small(dataset.path, tmp_path / "1", "--freeze_llama"))
    first = json.loads((tmp_path / "1" / "result.json").read_text())
    stored = read_manifest(tmp_path / "1" / str(first["step"])).arrays
    assert not any("llama" in name for name in stored)
    # A checkpoint without its Llama opens all the same.
    evaluate.main(["--checkpoint", str(tmp_path / "1"), "--split", "valid",
                   "--json", str(tmp_path / "valid.json")])  # fmt: skip
    found = json.loads((tmp_path / "valid.json").read_text())
    score = read_manifest(tmp_path / "1" / str(first["step"])).meta["score"]
    assert found["filtered"]["ndcg@10"] == pytest.approx(score)
    both = small(dataset.path, tmp_path / "2", "--load_checkpoint", str(tmp_path / "1"))
    train.main(once([*both, "--num_steps", "1", "--learning_rate", "1e-9"]))
    result = json.loads((tmp_path / "2" / "result.json").read_text())
    assert result["nll"] == pytest.approx(first["nll"], rel=1e-4)
    assert any("llama" in n for n in read_manifest(tmp_path / "2" / "1").arrays)
    other = once([*both, "--seed", "1", "--checkpoint_dir", str(tmp_path / "3")])
    assert "frozen random Llama of --seed 0" in refused(train.main, other, capsys)


def test_early_stopping_stops_and_stays_stopped(
    dataset: Dataset, tmp_path: Path
) -> None:
    flags = small(dataset.path, tmp_path / "run", "--early_stop", "1")
    flags += ["--eval_every", "2", "--num_steps", "10", "--learning_rate", "1e-9"]
    flags = once(flags)
    train.main(flags)
    stopped = steps(tmp_path / "run")[-1]
    assert stopped < 10
    train.main(flags)
    assert steps(tmp_path / "run")[-1] == stopped
    train.main(once([*flags, "--early_stop", "0"]))
    assert steps(tmp_path / "run")[-1] == 10


def test_a_stop_before_the_step_that_is_reached_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = small(dataset.path, tmp_path / "run")
    train.main(once([*flags, "--stop_at", "20"]))
    said = refused(train.main, once([*flags, "--stop_at", "10"]), capsys)
    assert "--stop_at is 10" in said
    assert not (tmp_path / "run" / "result.json").exists()


def test_only_the_newest_and_the_best_checkpoints_stay(
    dataset: Dataset, tmp_path: Path
) -> None:
    flags = small(dataset.path, tmp_path / "run", "--keep", "1", "--save_every", "5")
    train.main(once([*flags, "--eval_every", "10", "--num_steps", "30"]))
    kept = steps(tmp_path / "run")
    assert kept[-1] == 30 and len(kept) <= 2


@pytest.mark.parametrize("more", ["--save_every 1", "--eval_every 1"])
def test_weights_that_are_not_finite_stop_the_run_and_are_never_saved(
    more: str, dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """The first update of a schedule is 0, the second of this one breaks everything."""
    flags = small(dataset.path, tmp_path / "run", *more.split())
    flags = once([*flags, "--learning_rate", "1e38", "--grad_clip", "1e38"])
    said = refused(train.main, flags, capsys)
    found = re.search(
        r"the (loss|grad_norm|update_norm) is (nan|inf) at step (\d+)", said
    )
    assert found is not None
    saved = steps(tmp_path / "run")
    assert saved and saved[-1] < int(found[3])
    recommender = eqids.load(tmp_path / "run")
    for leaf in jax.tree.leaves(recommender.opened.model):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(list(json.loads(line).values())).all() for line in lines)


def scalars(events: Path) -> list[tuple[int, str, float]]:
    """What an event file holds; a record has 12 bytes before it and 4 after it."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = events.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    return found


def test_event_files_hold_the_values_of_the_metrics_file(
    dataset: Dataset, tmp_path: Path
) -> None:
    flags = small(dataset.path, tmp_path / "run", "--tensorboard", "--num_steps", "4")
    train.main(once([*flags, "--log_every", "2"]))
    (events,) = (tmp_path / "run" / "events").iterdir()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    # tensorboardX writes `_` for `@`.
    written = [
        (line["step"], name.replace("@", "_"), np.float32(value))
        for line in map(json.loads, lines)
        for name, value in line.items()
        if name not in ("step", "time")
    ]
    assert {name for _, name, _ in written} >= {"loss", "valid_ndcg_10"}
    assert scalars(events) == written


def test_memory_is_printed_and_nothing_is_trained(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    train.main(small(dataset.path, tmp_path / "run", "--estimate_memory_only"))
    said = capsys.readouterr().out
    assert re.search(r"peak \(about\) +\d+\.\d+", said) and "compiled for" in said
    assert not (tmp_path / "run").exists()


def test_what_a_run_needs_is_estimated_for_devices_that_are_not_here(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = small(dataset.path, tmp_path / "run", "--estimate_memory_only")
    for layout, mesh in (("2x2x1", "2 x 2 x 1"), ("1b-heads-h100-80gb-8", "8 x 1 x 1")):
        train.main([*once([*flags, "--batch_size", "8"]), "--layout", layout])
        said = capsys.readouterr().out
        assert f"mesh {mesh}" in said and "peak (about)" in said
        assert "devices, this machine has 1" in said
    said = refused(train.main, [*flags, "--layout", "2x2"], capsys)
    assert "layout is '2x2', wanted one of" in said
    assert not (tmp_path / "run").exists()


def test_a_pretrained_folder_trains_frozen_and_is_held_to_its_weights(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    import transformers

    llama = tmp_path / "llama"
    sizes = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=11,
        num_key_value_heads=1, head_dim=8, intermediate_size=12,
    )  # fmt: skip
    transformers.LlamaForCausalLM(sizes).save_pretrained(llama)
    flags = small(dataset.path, tmp_path / "run", "--llama_path", str(llama))
    train.main(once([*flags, "--num_steps", "2"]))
    evaluate.main(["--checkpoint", str(tmp_path / "run")])
    capsys.readouterr()
    config = llama / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'))
    said = refused(evaluate.main, ["--checkpoint", str(tmp_path / "run")], capsys)
    assert "config.json says rms_norm_eps 0.5" in said
    config.write_text(text)
    transformers.LlamaForCausalLM(sizes).save_pretrained(llama)
    said = refused(evaluate.main, ["--checkpoint", str(tmp_path / "run")], capsys)
    assert "holds other weights" in said
    wrong = [*flags, "--llama_size", "1b", "--checkpoint_dir", str(tmp_path / "b")]
    wrong = once(wrong)
    assert "not a Llama of --llama_size 1b" in refused(train.main, wrong, capsys)


# A shell's background jobs, and all they start, ignore the signal otherwise.
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("eqids.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("SIGINT", 130, marks=pytest.mark.long),
        ("SIGTERM", 143),
    ],
)
def test_a_signal_saves_the_step_and_the_run_goes_on_from_it(
    name: str, code: int, dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = small(dataset.path, run, "--save_every", "1000", "--log_every", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *once([*flags, "--num_steps", "100000"])],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step      6"))
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    (last,) = steps(run)
    assert f"stopped by {name} at step {last}, which is saved" in said
    assert "Traceback" not in said
    checkpoint.main(["verify", str(run)])


def test_fresh_refuses_a_folder_that_holds_anything(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    said = refused(train.main, small(dataset.path, finished, "--fresh"), capsys)
    assert f"--fresh: {finished} is not empty, it holds 20, 40" in said
    empty = tmp_path / "empty"
    empty.mkdir()
    train.main(small(dataset.path, empty, "--fresh", "--stop_at", "1"))
    assert steps(empty) == [1]


def test_minutes_and_multiples_decide_what_is_saved_and_kept(
    dataset: Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = "--stop_at 12 --keep 1 --keep_every 4 --save_minutes 1e-9".split()
    train.main(small(dataset.path, run, *more))
    assert steps(run) == [4, 8, 12]


def test_a_run_keeps_a_second_one_out_of_its_folder(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with Saver(run):
        said = refused(train.main, small(dataset.path, run), capsys)
    assert f"{run} is in use by process {os.getpid()} of " in said
    assert not run.exists()


# The main job


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """ML-100K, fetched as a user's machine fetches it."""
    folder = tmp_path_factory.mktemp("data") / "ml-100k"
    prepare.main(["--data_dir", str(folder)])
    return open_dataset(folder)


@pytest.mark.long
def test_the_default_recipe_starts_well_on_movielens(
    prepared: Dataset, tmp_path: Path
) -> None:
    """A ninth of the run, on all of the data, is past popularity already."""
    train.main(
        ["--data_dir", str(prepared.path), "--checkpoint_dir", str(tmp_path / "run"),
         "--stop_at", "100", "--eval_every", "100"]
    )  # fmt: skip
    assert not (tmp_path / "run" / "result.json").exists()
    evaluate.main(
        ["--checkpoint", str(tmp_path / "run"), "--split", "valid",
         "--json", str(tmp_path / "valid.json")]
    )  # fmt: skip
    result = json.loads((tmp_path / "valid.json").read_text())
    assert result["num_users"] == 943
    for side in ("filtered", "unfiltered"):
        assert result[side]["ndcg@10"] > result["popularity"][side]["ndcg@10"]
