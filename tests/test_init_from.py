"""Back from the pair that `eqids-to-hf` writes; and one run from another's weights."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import jax
import numpy as np
import pandas as pd
import pytest
from conftest import assert_close, run_python
from models import FLOAT32
from pairs import SIZES, STILL, save_pair, write_bases
from pytest import CaptureFixture
from runs import refused, save_noisy

import eqids
from convert import __main__ as convert_command
from convert.hub import REPOSITORIES
from eqids import evaluate, recommend, train
from eqids.checkpoints import read_manifest
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.fit import evaluation
from eqids.fit.evaluation import make_ranker
from eqids.fit.gate import gate_of, with_gate
from eqids.inference.open import open_checkpoint, open_pair
from sharding import Placement

NOWHERE = Placement(None, None)
STRATEGIES = ("heads", "lora", "all", "tied lora", "tied all", "random")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def saved(
    dataset: Dataset, bases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Returns the checkpoint of a strategy and the pair that was made of it."""
    folder = tmp_path_factory.mktemp("saved")
    return lambda name: save_pair(folder, name, bases, dataset)


def measured(tmp_path: Path, *flags: str) -> dict[str, Any]:
    path = tmp_path / "measured.json"
    evaluate.main([*flags, "--split", "valid", "--json", str(path)])
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_pair_is_the_model_that_it_was_made_of(
    name: str, saved: Callable[[str], tuple[Path, Path]]
) -> None:
    run, pair = saved(name)
    was = open_checkpoint(run, None, None, NOWHERE)
    now = open_pair(pair, None, NOWHERE)
    assert (was.step, was.config) == (now.step, now.config) and was.step == 4
    theirs = dataclasses.replace(now.model.config, lora=was.model.config.lora)
    assert theirs == was.model.config and now.model.config.lora is None
    if "lora" not in name:
        ours, theirs = (jax.tree.leaves_with_path(m) for m in (was.model, now.model))
        for (route, a), (_, b) in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype, route
            assert np.array_equal(a, b), route
        return
    merged = was.model.llama.blocks.merged()
    assert merged.lora is None
    assert not np.allclose(merged.wq, was.model.llama.blocks.wq, atol=1e-2)
    assert_close(now.model.llama.blocks, merged, "float32")
    history = [[f"item {i}" for i in (1, 5, 2, 1)]]
    ours, theirs = (
        eqids.load(path).recommend(history, k=27, filter_seen=False)
        for path in (run, pair)
    )
    assert_close(ours["probability"], theirs["probability"], "float32")


@pytest.mark.parametrize("name", ["heads", "tied lora"])
def test_commands_open_a_pair_as_they_do_a_checkpoint(
    name: str,
    saved: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    run, pair = saved(name)
    was = measured(tmp_path, "--checkpoint", str(run))
    now = measured(tmp_path, "--init_from", str(pair))
    assert was.keys() == now.keys() and now["step"] == 4
    assert was["filtered"] == now["filtered"]
    assert now["nll"] == pytest.approx(was["nll"], rel=1e-5)
    rows = []
    for one in (["--checkpoint", str(run)], ["--init_from", str(pair)]):
        pd.DataFrame({"user": ["a", "a"], "item": ["item 3", "item 9"]}).to_csv(
            tmp_path / "in.csv", index=False
        )
        out = tmp_path / "out.csv"
        files = ["--input", str(tmp_path / "in.csv"), "--output", str(out)]
        recommend.main([*one, *files, "--overwrite"])
        rows.append(pd.read_csv(out))
    assert list(rows[0]["item"]) == list(rows[1]["item"])
    assert_close(rows[0]["probability"], rows[1]["probability"], "float32")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("heads", "all"), ("tied lora", "heads"), ("lora", "lora")],
)
def test_a_run_starts_where_a_pair_ended(
    name: str,
    strategy: str,
    dataset: Dataset,
    saved: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    run, pair = saved(name)
    was = measured(tmp_path, "--init_from", str(pair))
    flags = [
        "--data_dir", str(dataset.path), "--checkpoint_dir", str(tmp_path / "more"),
        "--init_from", str(pair), "--train", strategy, *STILL.split(),
    ]  # fmt: skip
    train.main(flags)
    manifest = read_manifest(tmp_path / "more" / "1")
    there = {path.split("/")[2] for path in manifest.arrays if "/llama/" in path}
    assert bool(there) == (strategy != "heads")
    # Its own checkpoint opens by itself: the folder of the pair is its Llama's.
    opened = open_checkpoint(tmp_path / "more", None, None, NOWHERE)
    # The run chose a gate of its own; all else is as in the pair.
    same = with_gate(opened.model, float(gate_of(open_pair(pair, None, NOWHERE).model)))
    ranker = make_ranker(
        opened.config.recipe.seq_len, FLOAT32, NOWHERE, opened.tokens, opened.prefix
    )
    now = evaluation.evaluate(same, dataset, "valid", ranker)
    assert now["filtered"] == was["filtered"]
    assert now["nll"] == pytest.approx(was["nll"], rel=1e-6)
    assert_close(opened.model.softmax, open_pair(pair, None, NOWHERE).model.softmax,
                 "float32")  # fmt: skip


def test_one_model_is_opened_and_no_other(
    saved: Callable[[str], tuple[Path, Path]], capsys: CaptureFixture[str]
) -> None:
    run, pair = saved("heads")
    both = ["--checkpoint", str(run), "--init_from", str(pair)]
    for flags in (both, []):
        for command, more in (
            (evaluate.main, []),
            (recommend.main, ["--user", "user 1"]),
        ):
            said = refused(command, [*flags, *more], capsys)
            assert "wanted one of --checkpoint and --init_from" in said
    said = refused(evaluate.main, [*both[2:], "--llama_path", str(pair)], capsys)
    assert "has a Llama of its own, wanted no --llama_path" in said
    said = refused(evaluate.main, ["--init_from", str(run)], capsys)
    assert "has no eqids.json" in said


@pytest.mark.long
def test_low_rank_changes_join_a_llama_that_trains(
    saved: Callable[[str], tuple[Path, Path]],
    dataset: Dataset,
    bases: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    for name in ("heads", "tied lora"):
        run, _ = saved(name)
        base = bases / ("tied" if "tied" in name else "untied")
        items = ["--no_tied_items"] if "tied" in name else []
        flags = [
            "--data_dir", str(dataset.path), "--checkpoint_dir", str(tmp_path / name),
            "--llama_path", str(base), "--load_checkpoint", str(run), *items,
            "--item_width", "8", "--adapter", "linear", *STILL.split(),
        ]  # fmt: skip
        train.main([*flags, "--train", "all"])
        was = open_checkpoint(run, None, None, NOWHERE).model
        now = open_checkpoint(tmp_path / name, None, None, NOWHERE).model
        assert now.llama.blocks.lora is None
        assert_close(now.llama.blocks, was.llama.blocks.merged(), "float32")
        assert_close(now.softmax, was.softmax, "float32")
    flags[3] = str(tmp_path / "frozen")
    said = refused(train.main, [*flags, "--train", "heads"], capsys)
    assert "was trained with --" in said and "or first merge LoRA" in said


MESH = """
import jax, numpy as np
from pathlib import Path
from eqids.inference.open import open_checkpoint, open_pair
from sharding import Placement, placement

nowhere = Placement(None, None)
run, pair = Path({run!r}), Path({pair!r})
whole = open_pair(pair, None, nowhere).model
put = placement("2x2x2")
with put.active():
    model = open_pair(pair, None, put).model
    lora = open_checkpoint(run, None, None, put).model
    blocks = jax.jit(type(lora.llama.blocks).merged)(lora.llama.blocks)
assert blocks.wq.sharding == lora.llama.blocks.wq.sharding
tables = model.softmax.table, whole.softmax.table
pairs = [*zip(*map(jax.tree.leaves, (model.llama, whole.llama))), tables,
         *zip(*map(jax.tree.leaves, (blocks, whole.llama.blocks)))]
for a, b in pairs:
    np.testing.assert_allclose(np.asarray(a)[:len(b)], b, rtol=0, atol=1e-5)
print("same")
"""


@pytest.mark.long
def test_a_mesh_holds_the_same(saved: Callable[[str], tuple[Path, Path]]) -> None:
    run, pair = map(str, saved("lora"))
    assert run_python(MESH.format(run=run, pair=pair)).endswith("same\n")


def test_a_llama_that_its_cache_lost_comes_from_the_hub_again(
    dataset: Dataset,
    bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    published = REPOSITORIES["1b"]
    inside = f"models--{published.name.replace('/', '--')}/snapshots"
    first, second = (tmp_path / n / inside / published.revision for n in "ab")
    shutil.copytree(bases / "untied", first)
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", llama_size="1b",
        llama_path=first, train="heads", seq_len=16,
    )  # fmt: skip
    save_noisy(tmp_path / "run", flags, dataset)
    was = measured(tmp_path, "--checkpoint", str(tmp_path / "run"))
    second.parent.mkdir(parents=True)
    first.rename(second)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "b"))
    now = measured(tmp_path, "--checkpoint", str(tmp_path / "run"))
    assert now == was
    convert_command.main(["eqids-to-hf", str(tmp_path / "run"), str(tmp_path / "pair")])
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "c"))
    capsys.readouterr()
    said = refused(evaluate.main, ["--checkpoint", str(tmp_path / "run")], capsys)
    assert "is not in the hub's cache, and HF_HUB_OFFLINE forbids" in said
    assert said.count("\n") == 1
    # A folder of the user's own is not the hub's to bring back.
    mine = dataclasses.replace(flags, llama_path=bases / "tied")
    save_noisy(tmp_path / "mine", mine, dataset)
    shutil.move(bases / "tied", tmp_path / "moved")
    try:
        said = refused(evaluate.main, ["--checkpoint", str(tmp_path / "mine")], capsys)
    finally:
        shutil.move(tmp_path / "moved", bases / "tied")
    assert f"the Llama in {bases / 'tied'}, which no longer exists" in said
    assert "--llama_path DIR" in said


def test_a_command_names_its_positional_arguments(
    capsys: CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        convert_command.main(["hf-to-hf", "--help"])
    said = capsys.readouterr().out
    assert "INPUT OUTPUT" in said.splitlines()[0] and "PATH PATH" not in said


@pytest.mark.long
def test_a_run_from_a_folder_goes_on_however_the_folder_is_spelled(
    dataset: Dataset,
    saved: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    capsys: CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    was, now = tmp_path / "exported", tmp_path / "elsewhere"
    shutil.copytree(saved("heads")[1], was)
    monkeypatch.chdir(tmp_path)
    flags = [*SIZES.split(), "--num_steps", "4", "--checkpoint_dir", "run"]
    flags += ["--data_dir", str(dataset.path), "--train", "heads"]
    train.main([*flags, "--init_from", "exported", "--stop_at", "1"])
    made = read_manifest(tmp_path / "run" / "1").meta["config"]["flags"]
    assert made["llama_path"] == made["init_from"] == str(was)
    train.main([*flags, "--init_from", str(was), "--stop_at", "2"])
    assert "going on from step 1" in capsys.readouterr().out
    was.rename(now)
    said = refused(train.main, [*flags, "--init_from", "exported"], capsys)
    assert "the Llama in exported, which no longer exists" in said
    assert "give its new path: --init_from DIR" in said and "--llama_path" not in said
    train.main([*flags, "--init_from", "../" + tmp_path.name + "/elsewhere",
                "--stop_at", "3"])  # fmt: skip
    assert "going on from step 2" in capsys.readouterr().out
    # And so does the same folder as --llama_path, beside it.
    train.main([*flags, "--init_from", "elsewhere", "--llama_path", str(now)])
    assert "going on from step 3" in capsys.readouterr().out
    # A message about another Llama names the flag that was given.
    other = saved("tied all")[1]
    said = refused(train.main, [*flags, "--init_from", str(other)], capsys)
    assert "see --init_from" in said or "--init_from" in said
