"""`convert eqids-to-onnx`: what it writes, refuses, compares and holds in memory."""

import dataclasses
import hashlib
import json
import shlex
import tracemalloc
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import onnxruntime
import pytest
from exports import started
from folders import write_hf
from models import TINY
from onnx_exports import graph_model, onnxruntime_alone
from runs import refused, save_noisy
from test_triton_config import parsed

import eqids
from convert import __main__ as command, outputs, save_llama
from convert.outputs import Weight
from eqids.config import EqidsToOnnxConfig, TrainConfig, UserError
from eqids.data import Dataset
from eqids.export.export_onnx import eqids_to_onnx, write_onnx
from eqids.export.stored_model import stored_model
from eqids.io import digests
from eqids.model import Llama


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnxruntime_alone(tmp_path_factory.mktemp("onnxruntime") / "alone")


def test_the_command_writes_what_its_loader_reads(
    dataset: Dataset,
    packages: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16
    )
    run, out = tmp_path / "run", tmp_path / "out"
    save_noisy(run, flags, dataset)
    words = ["eqids-to-onnx", str(run), str(out), "--k", "3", "--verify", "20"]
    words += ["--triton", "--rows", "4"]
    command.main(words)
    manifest = json.loads((out / "manifest.json").read_text())
    digest = hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert f"{digest}  {out / 'manifest.json'}" in capsys.readouterr().out
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {*manifest["files"], "manifest.json"}
    assert shlex.split(manifest["command"])[3:-1] == words
    assert manifest["verified"]["histories"] == 20
    assert 0 < manifest["verified"]["largest_difference"] < 1e-4
    said = started(packages, tmp_path, out / "onnx_loader.py", "item 3,item 5", "--k=2")
    assert said.returncode == 0, said.stderr
    found = eqids.load(run).recommend([["item 3", "item 5"]], k=2)
    lines = [line.split("\t") for line in said.stdout.splitlines()]
    assert [line[:2] for line in lines] == found[["item", "title"]].values.tolist()
    probabilities = [float(line[2]) for line in lines]
    np.testing.assert_allclose(probabilities, found["probability"], atol=1e-6)
    for some_flags, says in REFUSED.items():
        assert says in refused(command.main, [*words[:2], *some_flags], capsys)
    assert "exists already, wanted a new folder, or --over" in refused(
        command.main, words, capsys
    )
    other = [*words[:2], str(run), "--overwrite"]
    assert "is no export of eqids-to-onnx" in refused(command.main, other, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    check_triton(out, dataset)


REFUSED = {
    ("new", "--k", "0"): "--k is 0, wanted 1 or more",
    ("new", "--rows", "0"): "--rows is 0, wanted 1 or more",
    ("new", "--verify", "-1"): "--verify is -1, wanted 0 or more",
    ("new", "--tensorrt"): "--tensorrt is given without --triton, wanted both",
    ("new", "--triton", "--tensorrt", "--k", "3840"): "--k is 3840 with --tensorrt",
    ("new", "--data_dir", "none"): "none",
}
"""Flags, and what the command says of them."""


def check_triton(repository: Path, dataset: Dataset) -> None:
    """Runs the graph with the shapes of the configuration's warm-up requests."""
    config = parsed((repository / "eqids/config.pbtxt").read_text())
    labels = (repository / "eqids/labels.txt").read_text().splitlines()
    items = dataset.items().set_index("slot")
    wanted = items["item"] + " " + items["title"]
    assert len(labels) == dataset.num_slots
    assert {slot: labels[slot] for slot in items.index} == wanted.to_dict()
    (version,) = (path for path in (repository / "eqids").iterdir() if path.is_dir())
    assert version.name == "1"
    graph = version / "model.onnx"
    session = onnxruntime.InferenceSession(str(graph))
    dtypes = {8: np.int32, 1: np.bool_}
    reshaped = {one.name for one in config.input if one.HasField("reshape")}
    for request in config.model_warmup:
        arrays = {}
        for entry in request.inputs:
            dims = [] if entry.key in reshaped else entry.value.dims
            shape = (request.batch_size, *dims)
            arrays[entry.key] = np.zeros(shape, dtypes[entry.value.data_type])
        assert {one.name for one in session.get_inputs()} == arrays.keys()
        for one, values in zip(config.output, session.run(
            [one.name for one in config.output], arrays
        ), strict=True):  # fmt: skip
            assert values.shape == (request.batch_size, *one.dims)
            # Nothing is allowed.
            assert (values == (-1 if one.name == "slots" else -np.inf)).all()


@pytest.mark.long
def test_a_graph_that_answers_otherwise_is_not_written(
    dataset: Dataset, tmp_path: Path
) -> None:
    opened, stored = graph_model(dataset, "ids")
    name = "eqids.softmax.bias"
    (bias,) = stored.beside[name].parts()
    bias = bias.copy()
    bias.flat[np.argmax(dataset.item_counts)] += 1e-2
    beside = {**stored.beside, name: Weight.of(bias)}
    config = EqidsToOnnxConfig(opened.path, tmp_path / "out", k=6, verify=5)
    with pytest.raises(UserError, match="answers user .* differ by .* wanted the same"):
        other = dataclasses.replace(stored, beside=beside)
        write_onnx(other, config, lambda: opened)
    assert not [*tmp_path.iterdir()]
    bias.flat[0] = np.nan
    with pytest.raises(UserError, match="softmax.bias has values that are not finite"):
        write_onnx(other, config, lambda: opened)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def find(name: str) -> object:
        return None if name == package else name

    monkeypatch.setattr("importlib.util.find_spec", find)
    words = ["eqids-to-onnx", "run", str(tmp_path / "out")]
    wanted = f"needs {package}: pip install 'eqids[onnx]'"
    assert wanted in refused(command.main, words, capsys)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pair_and_its_run_are_exported_alike(
    dtype: Literal["float32", "bfloat16"], dataset: Dataset, tmp_path: Path
) -> None:
    """LoRA over a Llama in bfloat16 is merged in both, and compared in float32."""
    write_hf(tmp_path / "llama", bfloat16=True)
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", train="lora",
        lora_rank=2, llama_path=tmp_path / "llama", dtype=dtype,
    )  # fmt: skip
    save_noisy(tmp_path / "run", flags, dataset)
    run, pair = str(tmp_path / "run"), str(tmp_path / "pair")
    command.main(["eqids-to-hf", run, pair])
    files = []
    for given, out in ((run, "first"), (pair, "second")):
        command.main(["eqids-to-onnx", given, str(tmp_path / out), "--no_allowed"])
        manifest = json.loads((tmp_path / out / "manifest.json").read_text())
        files.append(manifest["files"])
        assert "allowed" not in manifest["inputs"]
        # More than there are users: first halves, too.
        histories = manifest["verified"]["histories"]
        assert dataset.info.num_users < histories <= 2 * dataset.info.num_users
    # A run in bfloat16 rounds the Llama, which LoRA is merged into in its pair.
    changed = {name for name in files[0] if files[0][name] != files[1][name]}
    assert changed == ({"weights.safetensors"} if dtype == "bfloat16" else set())


@pytest.mark.long
@pytest.mark.parametrize("train", ["heads", "lora"])
def test_an_export_holds_less_than_a_layer(
    train: Literal["heads", "lora"],
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the bytes that Python and NumPy allocate; files are mapped, not read."""
    monkeypatch.setattr(outputs, "PART_BYTES", 1 << 16)
    monkeypatch.setattr(digests, "BLOCK_BYTES", 1 << 16)
    sizes = dataclasses.replace(TINY, width=128, num_layers=6, ffn=4096)
    save_llama(Llama(sizes, key=jax.random.key(0)), tmp_path / "llama")
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", train=train,
        llama_path=tmp_path / "llama", seq_len=16,
    )  # fmt: skip
    save_noisy(tmp_path / "run", flags, dataset)
    config = EqidsToOnnxConfig(tmp_path / "run", tmp_path / "out", verify=0)
    layer = 4 * 128 * (3 * 4096 + 2 * 2 * 8 + 2 * 8 + 2)
    eqids_to_onnx(config)  # imports what it needs
    with stored_model(config) as stored:
        tracemalloc.start()
        try:
            again = dataclasses.replace(config, output=tmp_path / "again")
            write_onnx(stored, again, lambda: pytest.fail("opened"))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    written = (tmp_path / "again/weights.safetensors").stat().st_size
    assert written > 6 * layer
    assert peak < layer, f"{peak:,} of {layer:,} bytes"
