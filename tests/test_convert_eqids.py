"""Exports of checkpoints: a Llama for Hugging Face, item vectors, and `inspect`."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from conftest import assert_close
from folders import write_hf
from ggufs import write_gguf
from runs import refused, save_noisy
from safetensors.numpy import load_file

from convert import __main__ as command, fingerprint, load_llama
from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.fit.gate import gate_of
from eqids.inference.open import Opened, open_checkpoint
from sharding import Placement

NOWHERE = Placement(None, None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "llama"
    write_hf(folder, shards=2, bfloat16=True)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def trained(
    dataset: Dataset, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A run of each strategy over one base, and one over a frozen random Llama."""
    folder = tmp_path_factory.mktemp("runs")
    pretrained = {"llama_path": base, "lora_rank": 16}
    asked: dict[str, dict[str, Any]] = {
        "heads": {**pretrained, "train": "heads"},
        "lora": {**pretrained, "train": "lora", "lora_rank": 2},
        "all": {**pretrained, "train": "all"},
        "random": {"train": "heads"},
    }
    for name, tokens in asked.items():
        flags = TrainConfig(
            data_dir=dataset.path, item_width=8, adapter="linear", **tokens
        )
        save_noisy(folder / name, flags, dataset)
    return {name: folder / name for name in asked}


def opened(run: Path) -> Opened:
    return open_checkpoint(run, None, None, NOWHERE)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= load_file(path)
    return found


def export(run: Path, out: Path, *more: str) -> dict[str, Any]:
    command.main(["eqids-to-hf", str(run), str(out), *more])
    return json.loads((out / "eqids.json").read_text())


def test_a_frozen_llama_is_exported_unchanged(
    trained: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    info = export(trained["heads"], tmp_path / "out", "--max_shard_gb", "0.000005")
    ours, theirs = tensors(tmp_path / "out"), tensors(base)
    assert set(ours) == set(theirs)
    for key, array in theirs.items():
        assert ours[key].dtype == array.dtype
        assert ours[key].tobytes() == array.tobytes()
    was, now = (
        json.loads((one / "config.json").read_text())
        for one in (base, tmp_path / "out")
    )
    assert was == now
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"
    model = opened(trained["heads"]).model
    beside = load_file(tmp_path / "out/eqids.safetensors")
    assert np.array_equal(beside["eqids.softmax.table"], model.softmax.table)
    assert np.array_equal(beside["eqids.input_adapter.w"], model.input_adapter.w)
    assert np.array_equal(beside["eqids.successors.gate"], gate_of(model))
    assert len(beside) == 4 + 1 + 1 + 1 + 2 * len(
        [key for key in beside if key.startswith("eqids.input_adapter")]
    )
    assert info["llama"] == fingerprint(tmp_path / "out")
    assert info["catalog_id"] == opened(trained["heads"]).dataset.info.catalog_id
    assert info["model"]["llama"]["width"] == 16


@pytest.mark.parametrize("strategy", ["lora", "all", "random"])
def test_what_was_trained_gives_transformers_the_same_logits(
    trained: dict[str, Path], base: Path, tmp_path: Path, strategy: str
) -> None:
    info = export(trained[strategy], tmp_path / "out")
    llama = opened(trained[strategy]).model.llama
    if strategy != "random":
        head = jnp.asarray(tensors(base)["lm_head.weight"].astype(np.float32))
        llama = eqx.tree_at(
            lambda m: m.lm_head, llama, head, is_leaf=lambda x: x is None
        )
    tokens = np.random.default_rng(0).integers(0, llama.config.vocab, (2, 7))
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    unmerged = llama.logits(jnp.asarray(tokens))
    tolerance = "float32" if strategy == "lora" else "logits"
    assert_close(unmerged, theirs, tolerance)
    merged = load_llama(tmp_path / "out")
    assert_close(merged.logits(jnp.asarray(tokens)), unmerged, "float32")
    changed = {
        key
        for key, array in tensors(tmp_path / "out").items()
        if strategy != "random"
        and not np.array_equal(array, tensors(base)[key].astype(np.float32))
    }
    if strategy == "lora":
        matrices = ("q", "k", "v", "o", "gate", "up", "down")
        assert len(changed) == 2 * len(matrices)
        assert not [key for key in changed if "norm" in key or "embed" in key]
        assert info["model"]["lora"] is None
        beside = load_file(tmp_path / "out/eqids.safetensors")
        assert not [key for key in beside if "lora" in key]
    if strategy == "all":
        assert any("norm" in key for key in changed)
        assert (tmp_path / "out/tokenizer.json").is_file()
    half = tmp_path / "half"
    export(trained[strategy], half, "--dtype", "float16")
    assert {str(array.dtype) for array in tensors(half).values()} == {"float16"}
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "float16"


def test_another_base_is_refused_by_its_fingerprint(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hf(tmp_path / "other")
    out = tmp_path / "out"
    tokens = ["eqids-to-hf", str(trained["lora"]), str(out), "--llama_path"]
    said = refused(command.main, [*tokens, str(tmp_path / "other")], capsys)
    assert "holds other weights" in said
    missing = ["eqids-to-hf", str(tmp_path / "none"), str(out)]
    assert "no such folder" in refused(command.main, missing, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_items_are_exported_with_their_ids_and_vectors(
    trained: dict[str, Path], dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "items"
    command.main(["items", str(trained["all"]), str(out)])
    softmax = opened(trained["all"]).model.softmax
    table = np.asarray(softmax.table)
    frame = pd.read_parquet(out / "items.parquet")
    assert list(frame["item"]) == list(dataset.items()["item"])
    for row in frame.itertuples():
        (slot,) = dataset.slot_of([row.item])
        cluster, place = divmod(int(slot), dataset.info.cluster_size)
        assert (row.slot, row.cluster) == (slot, cluster)
        assert np.array_equal(row.vector, table[cluster, place])
        assert row.bias == np.asarray(softmax.bias)[cluster, place]
    arrays = load_file(out / "items.safetensors")
    assert arrays["item_vectors"].flags["C_CONTIGUOUS"]
    assert np.array_equal(np.stack(list(frame["vector"])), arrays["item_vectors"])
    assert np.array_equal(arrays["item_slot"], frame["slot"])
    clusters = pq.read_table(out / "clusters.parquet").to_pydict()
    assert np.array_equal(clusters["vector"], np.asarray(softmax.cluster_table))
    assert np.array_equal(arrays["cluster_vectors"], np.asarray(softmax.cluster_table))
    assert sum(clusters["num_items"]) == len(frame) == dataset.info.num_items
    # With clusters and biases, the vectors give the softmax's own probabilities.
    query = np.random.default_rng(0).standard_normal((3, table.shape[-1]), np.float32)
    logits = query @ arrays["item_vectors"].T + arrays["item_bias"]
    heads = query @ arrays["cluster_vectors"].T + arrays["cluster_bias"]
    heads -= np.log(np.exp(heads).sum(axis=1, keepdims=True))
    cluster = frame["cluster"].to_numpy()
    sums = np.stack([np.exp(logits[:, cluster == c]).sum(axis=1) for c in range(5)], 1)
    ours = heads[:, cluster] + logits - np.log(sums)[:, cluster]
    theirs = softmax.log_probs(jnp.asarray(query))[:, arrays["item_slot"]]
    assert_close(ours, theirs, "float32")


def reported(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, Any]]:
    out = path.parent / "said.json"
    command.main(["inspect", str(path), "--json", str(out)])
    return capsys.readouterr().out, json.loads(out.read_text())


def test_inspect_names_every_kind(
    trained: dict[str, Path],
    base: Path,
    dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, values = reported(base, capsys)
    assert (values["kind"], values["preset"]) == ("Hugging Face folder", None)
    assert values["problem"] is None and values["llama"]["ffn"] == 24
    assert values["parameters"] == sum(array.size for array in tensors(base).values())
    assert values["bytes"] == sum(array.nbytes for array in tensors(base).values())
    assert "model.layers.*.mlp.up_proj.weight" in text and "2 x 0.8 KiB" in text
    one = next(t for t in values["tensors"] if t["name"] == "model.norm.weight")
    assert one == {
        "name": "model.norm.weight", "dtype": "BF16", "shape": [16], "bytes": 32,
    }  # fmt: skip
    _, values = reported(base / "model-00001-of-00002.safetensors", capsys)
    assert values["kind"] == "safetensors file"
    _, values = reported(trained["lora"], capsys)
    assert values["kind"] == "EqIDs run, its best step is 4"
    assert values["llama"]["width"] == 16 and values["trains"] == "lora"
    assert any("lora.wq.a" in one["name"] for one in values["tensors"])
    assert reported(trained["random"], capsys)[1]["preset"] == "nano"
    _, values = reported(trained["all"] / "4", capsys)
    assert (values["kind"], values["step"]) == ("EqIDs checkpoint", 4)
    text, values = reported(dataset.path, capsys)
    assert values["kind"] == "EqIDs dataset" and values["num_items"] == 27
    export(trained["lora"], tmp_path / "pair")
    capsys.readouterr()
    text, values = reported(tmp_path / "pair", capsys)
    assert "--init_from" in values["kind"] and values["step"] == 4
    assert "eqids.softmax.table" in text and values["problem"] is None
    write_gguf(tmp_path / "a.gguf", "Q4_K")
    _, values = reported(tmp_path / "a.gguf", capsys)
    assert values["kind"] == "GGUF file" and values["llama"]["width"] == 256
    assert {one["dtype"] for one in values["tensors"]} == {"Q4_K", "F32"}
    write_gguf(tmp_path / "b.gguf", arch="gpt2")
    text, values = reported(tmp_path / "b.gguf", capsys)
    assert values["architecture"] == "gpt2" and "'gpt2', wanted 'llama'" in text
    broken = tmp_path / "broken"
    write_hf(broken)
    (broken / "model.safetensors").unlink()
    assert "has no model.safetensors" in reported(broken, capsys)[1]["problem"]


def test_inspect_refuses_unknown_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04pickle")
    for path, said in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is no Hugging Face folder"),
        (tmp_path / "weights.bin", "wanted GGUF, a file whose name"),
    ):
        assert said in refused(command.main, ["inspect", str(path)], capsys)
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 20)
    said = refused(command.main, ["inspect", str(tmp_path / "a.safetensors")], capsys)
    assert "is not whole safetensors" in said
