"""GGUF files as Hugging Face folders, against the gguf package and transformers."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from ggufs import HEAD, HEADS, KV_HEADS, METADATA, NAMES, SHAPES, VOCAB, write_gguf
from runs import refused
from safetensors.numpy import load_file

from convert import __main__ as command, read_config
from convert.gguf_file import SUPPORTED, read_gguf
from convert.gguf_llama import gguf_to_hf
from convert.outputs import FLOATS
from eqids.config import RopeScaling, UserError


def convert(path: Path, output: Path, dtype: str = "float32") -> dict[str, np.ndarray]:
    gguf_to_hf(path, output, dtype=FLOATS[dtype], max_shard_bytes=10**9)
    return load_file(output / "model.safetensors")


def dequantized(path: Path) -> dict[str, np.ndarray]:
    """Returns a file's tensors by Hugging Face's names, read by the gguf package."""
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        array = array.reshape(tensor.shape[::-1])
        name = tensor.name.removesuffix(".weight")
        count = heads.get(name.split(".")[-1])
        if count is not None:
            pairs = array.reshape(count, HEAD // 2, 2, -1)
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        found[f"{NAMES[name]}.weight"] = array
    return found


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_type_is_decoded_as_the_package_does(tmp_path: Path, kind: str) -> None:
    write_gguf(tmp_path / "a.gguf", kind)
    ours, theirs = convert(tmp_path / "a.gguf", tmp_path / "hf"), None
    theirs = dequantized(tmp_path / "a.gguf")
    assert set(ours) == set(theirs)
    for key, array in theirs.items():
        assert ours[key].dtype == np.float32
        assert ours[key].tobytes() == array.astype(np.float32).tobytes(), key
        assert np.isfinite(array).all() and array.std() > 1e-4


def test_parts_of_a_tensor_are_whole_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "a.gguf", "Q4_1")
    whole = convert(tmp_path / "a.gguf", tmp_path / "whole")
    monkeypatch.setattr("convert.outputs.PART_BYTES", 5000)
    parts = convert(tmp_path / "a.gguf", tmp_path / "parts")
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)


def test_a_model_of_transformers_comes_back_to_the_bit(tmp_path: Path) -> None:
    """llama.cpp's permutation of rotary pairs, done here and undone there."""
    config = transformers.LlamaConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, head_dim=4, intermediate_size=10, vocab_size=7,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    back = {f"{theirs}.weight": f"{ours}.weight" for ours, theirs in NAMES.items()}
    back["lm_head.weight"] = "output.weight"
    arrays = {}
    for key, array in state.items():
        if "q_proj" in key or "k_proj" in key:
            halves = array.reshape(-1, 2, 2, array.shape[-1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        arrays[back[key]] = array
    metadata = {
        **METADATA, "embedding_length": 12, "feed_forward_length": 10,
        "attention.head_count": 3, "attention.head_count_kv": 1,
        "attention.key_length": 4, "rope.dimension_count": 4,
    }  # fmt: skip
    path = tmp_path / "a.gguf"
    write_gguf(path, metadata=metadata, shapes={}, more=arrays)
    converted = convert(path, tmp_path / "hf")
    assert set(converted) == set(state)
    assert all(np.array_equal(converted[key], state[key]) for key in state)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf")
    words = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(again(words).logits, model(words).logits)
    small = convert(path, tmp_path / "half", "bfloat16")
    assert all(
        np.array_equal(small[key], state[key].astype(small[key].dtype)) for key in state
    )
    assert (
        json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"]
        == "bfloat16"
    )


def llama3_table(factor: float, head: int, theta: float) -> np.ndarray:
    """`rope_freqs` as llama.cpp's converter writes it, one frequency at a time."""
    low, high, context = 1.0, 4.0, 8192
    out = []
    for n in range(0, head, 2):
        length = 2 * math.pi * theta ** (n / head)
        if length < context / high:
            out.append(1.0)
        elif length > context / low:
            out.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recognized_by_its_table(
    tmp_path: Path, factor: float
) -> None:
    metadata = {**METADATA, "rope.freq_base": 500_000.0}
    table = llama3_table(factor, HEAD, 500_000.0)
    write_gguf(
        tmp_path / "a.gguf", metadata=metadata, more={"rope_freqs.weight": table}
    )
    convert(tmp_path / "a.gguf", tmp_path / "hf")
    config = read_config(tmp_path / "hf")
    assert config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)
    assert (config.rope_theta, config.norm_eps, config.tied) == (500_000.0, 1e-5, True)
    table[3] *= 1.5
    write_gguf(
        tmp_path / "b.gguf", metadata=metadata, more={"rope_freqs.weight": table}
    )
    with pytest.raises(UserError, match=r"b\.gguf: rope_freqs\.weight is not what"):
        convert(tmp_path / "b.gguf", tmp_path / "no")


def _without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: value for key, value in SHAPES.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "qwen2"}, "general.architecture is 'qwen2', wanted 'llama'"),
        ({"kind": "Q5_0"}, "has type Q5_0, wanted one of F32, F16"),
        ({"shapes": _without("blk.0.ffn_up")}, "has no tensor blk.0.ffn_up.weight"),
        ({"shapes": _without("token_embd")}, "has no token_embd.weight"),
        (
            {"shapes": {**SHAPES, "blk.0.attn_q": (128, 256)}},
            r"blk.0.attn_q.weight has shape \[128, 256\], wanted \[256, 256\]",
        ),
        (
            {"more": {"blk.0.attn_q.bias": np.zeros(256, np.float32)}},
            "has 1 tensors that no Llama has, the first is blk.0.attn_q.bias",
        ),
        ({"metadata": {**METADATA, "block_count": "1"}}, "llama.block_count is '1'"),
        (
            {"metadata": {**METADATA, "rope.scaling.type": "yarn"}},
            "llama.rope.scaling.type is 'yarn'",
        ),
        (
            {"metadata": {**METADATA, "rope.dimension_count": 32}},
            "llama.rope.dimension_count is 32, wanted the size of a head, 64",
        ),
        ({"metadata": {**METADATA, "logit_scale": 0.5}}, "llama.logit_scale is 0.5"),
    ],
)
def test_what_is_no_llama_is_named(
    tmp_path: Path, changes: dict, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, **changes)
    with pytest.raises(UserError, match=said) as error:
        convert(path, tmp_path / "hf")
    assert "a.gguf" in str(error.value)
    flags = ["gguf-to-hf", str(path), str(tmp_path / "hf")]
    assert "a.gguf" in refused(command.main, flags, capsys)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.gguf"]


@pytest.mark.long
def test_a_damaged_header_costs_one_sentence(tmp_path: Path) -> None:
    """Cuts everywhere, and replaces every byte of the header by 0xFF."""
    path, broken = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_gguf(path, general={"list": ["a", "b"], "numbers": [1, 2, 3]})
    data = path.read_bytes()
    start = min(one.offset for one in read_gguf(path).tensors.values())
    assert data[:4] == b"GGUF" and start < 4000
    outcomes = {"refused": 0, "read": 0}
    for place in range(start):
        broken.write_bytes(data[:place] + b"\xff" + data[place + 1 :])
        try:
            read_gguf(broken)
            outcomes["read"] += 1  # a letter of a name, or a number that may be so
        except UserError as error:
            outcomes["refused"] += 1
            assert "b.gguf" in str(error)
    assert outcomes["refused"] > start / 2
    for length in (*range(0, start, 7), len(data) - 1):
        broken.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"b\.gguf"):
            read_gguf(broken)


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"PK\1\2 and so on")
    with pytest.raises(UserError, match="begins with b'PK.*, wanted b'GGUF'"):
        read_gguf(tmp_path / "a.gguf")
    with pytest.raises(UserError, match="is not a file"):
        read_gguf(tmp_path)


def tokenizer_metadata(pre: str) -> dict[str, object]:
    letters = [*map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "1", "2", "'", "Ċ"]
    tokens = ["<s>", "</s>", *letters, "th", "Ġth", "the", "<user>"]
    types = [3, 3, *[1] * (len(tokens) - 3), 4]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["t h", "Ġ th", "th e"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def test_a_tokenizer_of_llama3_begins_texts_and_prefers_whole_words(
    tmp_path: Path,
) -> None:
    general = tokenizer_metadata("llama-bpe")
    write_gguf(tmp_path / "a.gguf", general=general)
    convert(tmp_path / "a.gguf", tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokens = general["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)

    def spelled(text: str) -> list[str]:
        return [tokens[n] for n in tokenizer(text).input_ids]

    # " the" merges to Ġth and e, but "the" is a token of its own.
    assert spelled("the the") == ["<s>", "the", "Ġth", "e"]
    assert spelled("a<user>121") == ["<s>", "a", "<user>", "1", "2", "1"]
    assert spelled("it's") == ["<s>", "i", "t", "'", "s"]
    assert tokenizer.eos_token == "</s>"
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    write_gguf(
        tmp_path / "b.gguf",
        general={**general, "tokenizer.ggml.add_bos_token": False},
    )
    convert(tmp_path / "b.gguf", tmp_path / "plain")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert spelled("the") == ["the"]


def test_an_unknown_tokenizer_is_left_out_and_reported(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", general=tokenizer_metadata("tekken"))
    said: list[str] = []
    gguf_to_hf(
        tmp_path / "a.gguf", tmp_path / "hf", dtype=FLOATS["float32"],
        max_shard_bytes=10**9, report=said.append,
    )  # fmt: skip
    assert len(said) == 1 and "'tekken'" in said[0]
    assert not (tmp_path / "hf/tokenizer.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer.ggml.merges": ["t q"]}, r"merges\[0\] is 't q'"),
        ({"tokenizer.ggml.token_type": [1]}, "and a token_type for each"),
        (
            {"tokenizer.ggml.tokens": ["a", *["b"] * (VOCAB - 1)]},
            f"has {VOCAB} tokens, 2 of them distinct",
        ),
        ({"tokenizer.ggml.eos_token_id": 99}, "eos_token_id is 99"),
        ({"tokenizer.ggml.merges": [1, 2]}, "merges is not a list of texts"),
    ],
)
def test_an_inconsistent_tokenizer_is_refused(
    tmp_path: Path, change: dict, said: str
) -> None:
    general = {**tokenizer_metadata("smollm"), **change}
    write_gguf(tmp_path / "a.gguf", general=general)
    with pytest.raises(UserError, match=said):
        convert(tmp_path / "a.gguf", tmp_path / "hf")
