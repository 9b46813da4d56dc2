"""Broken pairs of `eqids-to-hf`, each refused in a sentence."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import make_dataset
from pairs import STILL, save_pair, write_bases
from pytest import CaptureFixture
from runs import refused
from safetensors.numpy import load_file, save_file

from eqids import evaluate, train
from eqids.data import Dataset


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intact pair."""
    bases = write_bases(tmp_path_factory.mktemp("bases"))
    return save_pair(tmp_path_factory.mktemp("saved"), "tied all", bases, dataset)[1]


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
    "catalog": (_said(catalog_id="other"), "was trained on another catalog than"),
    "missing": (_edited(BESIDE, lambda t: t.pop(BIAS)), f"has no tensor {BIAS}"),
    "surplus": (
        _edited(BESIDE, lambda t: t.update({"eqids.more": np.zeros(1)})),
        "has 1 tensors that the model does not have, the first is eqids.more",
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
    whole: Path,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    shutil.copytree(whole, tmp_path / "pair")
    breaks, said = BROKEN[case]
    breaks(tmp_path / "pair")
    found = refused(evaluate.main, ["--init_from", str(tmp_path / "pair")], capsys)
    assert said in found and str(tmp_path / "pair") in found
    assert found.count("\n") == 1


def test_training_refuses_a_broken_pair_too(
    whole: Path,
    dataset: Dataset,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    names = ("kind", "llama", "tensors", "missing", "NaN", "NaN in Llama")
    for number, case in enumerate(names):
        pair = tmp_path / str(number)
        shutil.copytree(whole, pair)
        breaks, said = BROKEN[case]
        breaks(pair)
        flags = ["--data_dir", str(dataset.path), "--init_from", str(pair), "--train",
                 "heads", "--checkpoint_dir", str(tmp_path / "run")]  # fmt: skip
        assert said in refused(train.main, [*flags, *STILL.split()], capsys)
    flags = ["--data_dir", str(dataset.path), "--init_from", str(whole)]
    flags += ["--checkpoint_dir", str(tmp_path / "run"), *STILL.split()]
    for more, said in (
        (["--item_width", "4"], "is F32 of shape (5, 6, 8), wanted F32 of (5, 6, 4)"),
        (["--llama_path", str(tmp_path)], "has a Llama of its own"),
        (["--load_checkpoint", "runs/a"], "contradict each other, wanted one of them"),
    ):
        assert said in refused(train.main, [*flags, *more], capsys)
    other = make_dataset(tmp_path / "other", seed=1)
    flags[1] = str(other.path)
    assert "was trained on another catalog" in refused(train.main, flags, capsys)
