"""Hugging Face folders that we write, against transformers and to the bit."""

import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from folders import write_hf
from hypothesis import given, settings, strategies as st
from runs import refused
from safetensors.numpy import load_file, save_file
from test_llama import hf_configs, reference

from convert import __main__ as command, load_llama, save_llama
from convert.hf_write import hf_to_hf
from convert.outputs import FLOATS
from eqids.config import UserError

GB = 10**9


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a folder, from all its files."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        found |= load_file(path)
    return found


def assert_equal(ours: Path, theirs: Path) -> None:
    a, b = tensors(ours), tensors(theirs)
    assert set(a) == set(b)
    for key in a:
        assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape)
        assert a[key].tobytes() == b[key].tobytes(), key


@settings(max_examples=8)
@given(hf_configs(), st.integers(0, 2**31 - 1), st.integers(1, 3))
def test_there_and_back_is_the_same_to_the_bit(
    config: transformers.LlamaConfig, seed: int, shards: int
) -> None:
    """hf → hf and hf → Llama → hf; transformers loads both, with equal logits."""
    model = reference(config, seed)
    tokens = torch.from_numpy(
        np.random.default_rng(seed).integers(0, config.vocab_size, (2, 9))
    )
    with tempfile.TemporaryDirectory() as name:
        there, copy, back = (Path(name) / one for one in ("there", "copy", "back"))
        size = sum(weight.nbytes for weight in model.parameters())
        model.save_pretrained(there, max_shard_size=size // shards + 1)
        hf_to_hf(there, copy, max_shard_bytes=size // (4 - shards) + 1)
        save_llama(load_llama(there), back, max_shard_bytes=size // shards + 1)
        for folder in (copy, back):
            assert_equal(folder, there)
            again = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
            with torch.no_grad():
                assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_another_dtype_is_one_rounding(tmp_path: Path, dtype: str) -> None:
    write_hf(tmp_path / "a", shards=2)
    out = tmp_path / "b"
    digests = hf_to_hf(tmp_path / "a", out, dtype=FLOATS[dtype], max_shard_bytes=GB)
    assert set(digests) == {"config.json", "model.safetensors"}
    ours, theirs = tensors(out), tensors(tmp_path / "a")
    for key, array in theirs.items():
        rounded = torch.from_numpy(array).to(getattr(torch, dtype))
        bits = torch.int32 if dtype == "float32" else torch.int16
        assert str(ours[key].dtype) == dtype
        assert ours[key].tobytes() == rounded.view(bits).numpy().tobytes()
    model = transformers.LlamaForCausalLM.from_pretrained(out)
    assert model.dtype == getattr(torch, dtype)


def test_the_first_layers_are_a_llama_of_their_own(tmp_path: Path) -> None:
    """The oracle is what transformers has after a layer."""
    write_hf(tmp_path / "a", shards=2)
    whole = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "a").eval()
    layers = whole.config.num_hidden_layers
    hf_to_hf(tmp_path / "a", tmp_path / "b", num_layers=1, max_shard_bytes=GB)
    first = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "b").eval()
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        expected = whole.model(tokens, output_hidden_states=True).hidden_states[1]
        found = first.model(tokens).last_hidden_state
        assert layers > 1 and torch.equal(found, whole.model.norm(expected))
    with pytest.raises(UserError, match=f"at most the {layers} of"):
        hf_to_hf(tmp_path / "a", tmp_path / "c", num_layers=9, max_shard_bytes=GB)


def test_shards_are_filled_and_the_index_is_complete(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_hf(tmp_path / "a" / "x", bfloat16=True)
    source = tmp_path / "a" / "x"
    for name in ("tokenizer.json", "secret.txt", "pytorch_model.bin"):
        (source / name).write_text(name)
    limit = 2000
    hf_to_hf(source, tmp_path / "b", max_shard_bytes=limit)
    index = json.loads((tmp_path / "b/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        array.nbytes for array in tensors(source).values()
    )
    for path in (tmp_path / "b").glob("*.safetensors"):
        held = load_file(path)
        assert len(held) == 1 or sum(a.nbytes for a in held.values()) <= limit
        assert all(index["weight_map"][key] == path.name for key in held)
    assert_equal(tmp_path / "b", source)
    beside = {path.name for path in (tmp_path / "b").iterdir()}
    assert "tokenizer.json" in beside
    assert not beside & {"secret.txt", "pytorch_model.bin"}


def test_values_that_overflow_a_dtype_are_refused(tmp_path: Path) -> None:
    found = write_hf(tmp_path / "a")
    key = "model.layers.1.mlp.up_proj.weight"
    found[key][0, 0] = 1e5
    save_file(found, tmp_path / "a/model.safetensors")
    with pytest.raises(UserError, match=rf"{key} has values that float16 .* 100000"):
        hf_to_hf(
            tmp_path / "a", tmp_path / "b", dtype=FLOATS["float16"], max_shard_bytes=GB
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_mistakes_give_one_sentence_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_hf(tmp_path / "a")
    (tmp_path / "other").mkdir()
    config = json.loads((tmp_path / "a/config.json").read_text())
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    (tmp_path / "other/config.json").write_text(json.dumps(config))

    def reported(*tokens: object) -> str:
        return refused(command.main, [str(word) for word in tokens], capsys)

    new = tmp_path / "new"
    assert "exists already" in reported("hf-to-hf", tmp_path / "a", tmp_path / "other")
    assert "MistralForCausalLM" in reported("hf-to-hf", tmp_path / "other", new)
    assert "no such folder" in reported("hf-to-hf", tmp_path / "none", new)
    flags = ("--max_shard_gb", "0")
    assert "--max_shard_gb is 0" in reported("hf-to-hf", tmp_path / "a", new, *flags)
    under = tmp_path / "a/config.json/new"
    assert "could not be written" in reported("hf-to-hf", tmp_path / "a", under)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "other"]


def test_a_damaged_disk_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files read back differ from what was written."""
    from convert import outputs

    write_hf(tmp_path / "a")
    monkeypatch.setattr(outputs, "file_sha256", lambda path: "0" * 64)
    with pytest.raises(UserError, match="model.safetensors reads back|config.json"):
        hf_to_hf(tmp_path / "a", tmp_path / "b", max_shard_bytes=GB)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_bfloat16_passes_through_a_llama_unchanged(tmp_path: Path) -> None:
    write_hf(tmp_path / "a", bfloat16=True, tied=True)
    save_llama(load_llama(tmp_path / "a", ml_dtypes.bfloat16), tmp_path / "b")
    assert_equal(tmp_path / "b", tmp_path / "a")
    assert json.loads((tmp_path / "b/config.json").read_text())["torch_dtype"] == (
        "bfloat16"
    )
