"""Back from the pair that `eqids-to-hf` writes; and one run from another's weights."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import jax
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from conftest import assert_close, make_dataset, run_python
from folders import write_hf
from pytest import CaptureFixture
from runs import refused, save_noisy, small
from safetensors.numpy import load_file, save_file
from tokens import TEXTS, with_texts, write_tokenizer

import eqids
from convert import __main__ as convert_door
from convert.hub import REPOSITORIES
from eqids import catalog, evaluate, recommend, train
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.fit.checkpoint import read_manifest
from eqids.opening import open_checkpoint, open_pair
from sharding import Placement

NOWHERE = Placement(None, None)
STRATEGIES = ("heads", "lora", "all", "tied lora", "tied all", "random")
SIZES = "--batch_size 4 --seq_len 16"
STILL = f"{SIZES} --num_steps 1 --learning_rate 1e-30 --item_optimizer dense"
"""Flags of a run that ends where it starts."""
WORDS = ["--text_tokens_per_item", "3", "--prompt", "Up", "--seq_len", "32"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_hf(folder / "untied", shards=2)
    write_hf(folder / "tied", tied=True)
    return folder


@pytest.fixture(scope="module")
def saved(
    dataset: Dataset, bases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Returns the checkpoint of a strategy and the pair that was made of it."""
    folder = tmp_path_factory.mktemp("saved")

    def of(name: str) -> tuple[Path, Path]:
        run, pair = folder / f"{name} run", folder / f"{name} pair"
        if run.exists():
            return run, pair
        *tied, strategy = name.split()
        base = bases / ("tied" if tied else "untied")
        asked: dict[str, Any] = {"train": strategy, "llama_path": base}
        if strategy == "random":
            asked = {"train": "heads"}
        if strategy == "lora":
            asked["lora_rank"] = 2
        flags = TrainConfig(
            data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16,
            tied_items=not tied, **asked,
        )  # fmt: skip
        save_noisy(run, flags, dataset)
        convert_door.main(["eqids-to-hf", str(run), str(pair)])
        return run, pair

    return of


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
def test_doors_open_a_pair_as_they_do_a_checkpoint(
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
        recommend.main([*one, "--input", str(tmp_path / "in.csv"), "--output",
                        str(out)])  # fmt: skip
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
    now = manifest.meta["validation"]
    assert now["filtered"] == was["filtered"]
    assert now["nll"] == pytest.approx(was["nll"], rel=1e-6)
    there = {path.split("/")[2] for path in manifest.arrays if "/llama/" in path}
    assert bool(there) == (strategy != "heads")
    # Its own checkpoint opens by itself: the folder of the pair is its Llama's.
    opened = open_checkpoint(tmp_path / "more", None, None, NOWHERE)
    assert_close(opened.model.softmax, open_pair(pair, None, NOWHERE).model.softmax,
                 "float32")  # fmt: skip


@pytest.fixture(scope="module")
def worded(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a dataset with texts, a run with words and what was made of it.

    The tokenizer is no longer where the run found it, but beside it.
    """
    folder = tmp_path_factory.mktemp("worded")
    texted = with_texts(dataset, folder / "d", TEXTS)
    tokenizer = write_tokenizer(folder / "mine.json")
    flags = small(texted.path, folder / "run", *WORDS, "--num_steps", "1")
    train.main([*flags, "--tokenizer", str(tokenizer)])
    convert_door.main(["eqids-to-hf", str(folder / "run"), str(folder / "pair")])
    tokenizer.rename(folder / "moved.json")
    return folder


def test_words_come_with_the_folder(
    worded: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    shutil.copytree(worded / "pair", tmp_path / "pair")
    pair = ["--init_from", str(tmp_path / "pair")]
    was = read_manifest(worded / "run" / "1").meta["validation"]
    flags = [*STILL.split(), *WORDS, "--checkpoint_dir", str(tmp_path / "more")]
    flags += ["--train", "all"]
    train.main(["--data_dir", str(worded / "d"), *flags, *pair])
    more = read_manifest(tmp_path / "more" / "1").meta["validation"]
    assert more["filtered"] == was["filtered"]
    assert more["nll"] == pytest.approx(was["nll"], rel=1e-6)
    opened = eqids.load(tmp_path / "pair").opened
    assert opened.words is not None and opened.words.config == opened.config.words
    (tmp_path / "pair" / "tokenizer.json").unlink()
    said = refused(evaluate.main, pair, capsys)
    assert "which is not there: add --tokenizer FILE" in said
    write_tokenizer(tmp_path / "pair" / "tokenizer.json", vocab=280)
    said = refused(evaluate.main, pair, capsys)
    assert "is another tokenizer" in said and "see --tokenizer" in said


def test_a_catalog_brings_a_run_with_words_along_by_its_tokenizer(
    worded: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    data = tmp_path / "d"
    shutil.copytree(worded / "d", data)
    catalog.main(["grow", "--clusters", "1", "--data_dir", str(data)])
    flags = ["migrate", "--data_dir", str(data), "--checkpoint", str(worded / "run")]
    flags += ["--output", str(tmp_path / "next")]
    said = refused(catalog.main, flags, capsys)
    assert "which is not there: add --tokenizer FILE" in said
    catalog.main([*flags, "--tokenizer", str(worded / "moved.json")])
    meta = read_manifest(tmp_path / "next" / "1").meta
    assert meta["validation"]["num_users"] > 0
    # And the pair is of the catalog before.
    flags = ["--init_from", str(worded / "pair"), "--data_dir", str(data)]
    said = refused(evaluate.main, flags, capsys)
    assert "was trained on an earlier version of the catalog" in said
    assert "eqids.catalog migrate" in said and "eqids-to-hf" in said


Tensors = dict[str, np.ndarray]


def _edited(file: str, edit: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    """Changes tensors of a pair, and the digest of their file with them."""

    def change(folder: Path) -> None:
        found = load_file(folder / file)
        edit(found)
        save_file(found, folder / file, metadata={"format": "pt"})
        digest = hashlib.sha256((folder / file).read_bytes()).digest()
        name = "tensors" if file.startswith("eqids") else "llama"
        if name == "llama":
            digest = hashlib.sha256(digest).digest()
        _said(**{name: digest.hex()})(folder)

    return change


def _said(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "eqids.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _flipped(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[-1] ^= 1
        (folder / file).write_bytes(data)

    return change


def _set(key: str, value: Any) -> Callable[[Tensors], Any]:
    return lambda found: found.__setitem__(key, value(found[key]))


def _nan(array: np.ndarray) -> np.ndarray:
    array.flat[-1] = np.nan
    return array


BESIDE, LLAMA = "eqids.safetensors", "model.safetensors"
BIAS, NORM = "eqids.softmax.bias", "model.layers.1.input_layernorm.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no info": (lambda f: (f / "eqids.json").unlink(), "has no eqids.json, wanted a"),
    "no tensors": (lambda f: (f / BESIDE).unlink(), f"has no {BESIDE}, wanted a fol"),
    "no JSON": (lambda f: (f / "eqids.json").write_text("{"), "eqids.json is not JSON"),
    "a list": (lambda f: (f / "eqids.json").write_text("[]"), "holds no JSON object"),
    "version": (_said(format_version=2), "format_version is 2, wanted 1"),
    "no field": (_said(config={}), "eqids.json: config: no field 'flags'"),
    "kind": (_said(config=3), "eqids.json: config is 3, wanted an object"),
    "kind inside": (_said(model={"llama": 3}), "eqids.json: model"),
    "tensors": (_flipped(BESIDE), f"{BESIDE} holds other weights (SHA-256 "),
    "llama": (_flipped(LLAMA), "holds other weights (SHA-256 "),
    "no llama": (lambda f: (f / LLAMA).unlink(), f"has no {LLAMA}"),
    "catalog": (_said(catalog_id="other"), "was trained on the catalog other, and"),
    "missing": (_edited(BESIDE, lambda t: t.pop(BIAS)), f"has no tensor {BIAS}"),
    "surplus": (
        _edited(BESIDE, lambda t: t.update({"eqids.more": np.zeros(1)})),
        "has 1 tensors that the model has not, the first is eqids.more",
    ),
    "shape": (
        _edited(BESIDE, _set(BIAS, lambda x: x[:, :1].copy())),
        f"{BIAS} is F32 of shape (5, 1), wanted F32 of (5, 6)",
    ),
    "dtype": (
        _edited(BESIDE, _set(BIAS, lambda x: x.astype(ml_dtypes.bfloat16))),
        f"{BIAS} is BF16 of shape (5, 6), wanted F32 of (5, 6)",
    ),
    "NaN": (_edited(BESIDE, _set(BIAS, _nan)), f"{BIAS} has values that are not fin"),
    "NaN in Llama": (_edited(LLAMA, _set(NORM, _nan)), f"{NORM} has values that are"),
    "missing in Llama": (_edited(LLAMA, lambda t: t.pop(NORM)), f"no tensor {NORM}"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_pair_is_refused_in_a_sentence(
    case: str,
    saved: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    shutil.copytree(saved("tied all")[1], tmp_path / "pair")
    breaks, said = BROKEN[case]
    breaks(tmp_path / "pair")
    told = refused(evaluate.main, ["--init_from", str(tmp_path / "pair")], capsys)
    assert said in told and str(tmp_path / "pair") in told
    assert told.count("\n") == 1


def test_training_refuses_a_broken_pair_too(
    saved: Callable[[str], tuple[Path, Path]],
    dataset: Dataset,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    names = ("kind", "llama", "tensors", "missing", "NaN", "NaN in Llama")
    for number, case in enumerate(names):
        pair = tmp_path / str(number)
        shutil.copytree(saved("tied all")[1], pair)
        breaks, said = BROKEN[case]
        breaks(pair)
        flags = ["--data_dir", str(dataset.path), "--init_from", str(pair), "--train",
                 "heads", "--checkpoint_dir", str(tmp_path / "run")]  # fmt: skip
        assert said in refused(train.main, [*flags, *STILL.split()], capsys)
    pair = saved("tied all")[1]
    flags = ["--data_dir", str(dataset.path), "--init_from", str(pair)]
    flags += ["--checkpoint_dir", str(tmp_path / "run"), *STILL.split()]
    for more, said in (
        (["--item_width", "4"], "is F32 of shape (5, 6, 8), wanted F32 of (5, 6, 4)"),
        (["--llama_path", str(tmp_path)], "has a Llama of its own"),
        (["--load_checkpoint", "runs/a"], "contradict each other, wanted one of them"),
    ):
        assert said in refused(train.main, [*flags, *more], capsys)
    other = make_dataset(tmp_path / "other", seed=1)
    flags[1] = str(other.path)
    assert "was trained on the catalog" in refused(train.main, flags, capsys)


def test_one_model_is_opened_and_no_other(
    saved: Callable[[str], tuple[Path, Path]], capsys: CaptureFixture[str]
) -> None:
    run, pair = saved("heads")
    both = ["--checkpoint", str(run), "--init_from", str(pair)]
    for flags in (both, []):
        for door, more in ((evaluate.main, []), (recommend.main, ["--user", "user 1"])):
            said = refused(door, [*flags, *more], capsys)
            assert "wanted one of --checkpoint and --init_from" in said
    said = refused(evaluate.main, [*both[2:], "--llama_path", str(pair)], capsys)
    assert "has a Llama of its own, wanted no --llama_path" in said
    said = refused(evaluate.main, ["--init_from", str(run)], capsys)
    assert "has no eqids.json" in said


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
    assert "was trained with LoRA" in said and "--train all, or LoRA merged" in said


MESH = """
import jax, numpy as np
from pathlib import Path
from eqids.opening import open_checkpoint, open_pair
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
    convert_door.main(["eqids-to-hf", str(tmp_path / "run"), str(tmp_path / "pair")])
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
    assert f"{bases / 'tied'} has no model.safetensors" in said


def test_a_command_names_what_it_is_told_by_place(
    capsys: CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        convert_door.main(["hf-to-hf", "--help"])
    said = capsys.readouterr().out
    assert "INPUT OUTPUT" in said.splitlines()[0] and "PATH PATH" not in said
