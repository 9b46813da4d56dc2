"""Proofs that a setting stored twice is read as its format's own loader reads it.

The oracle of folders is transformers itself, reading the same files. That of GGUF is
`load_hparams` of llama.cpp (src/llama-model.cpp), written out in `llama_cpp_divisors`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from folders import TINY_HF, random_tensors, write_hf
from ggufs import HEAD, METADATA, SHAPES, VOCAB, write_gguf
from safetensors.numpy import load_file, save_file
from test_convert_gguf import tokenizer_metadata
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from convert import fingerprint, load_llama, read_config
from convert.gguf_llama import gguf_to_hf
from convert.hf_files import shard_paths
from convert.hf_write import hf_to_hf
from convert.outputs import FLOATS
from eqids.config import UserError
from eqids.data.batches.item_texts import tokenizer_file, tokens_of_texts
from eqids.model.rope import rope_frequencies

GB = 10**9
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0}
WORDS = np.array([[1, 5, 2, 7, 3, 3, 11, 0, 9, 4, 8, 6]])


def write_config(folder: Path, **changes: Any) -> Path:
    """Writes a valid folder whose config.json has changes; `...` removes a field."""
    write_hf(folder)
    config = {k: v for k, v in (TINY_HF | changes).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def theirs(folder: Path) -> np.ndarray:
    """Returns the RoPE frequencies that transformers computes."""
    config = transformers.LlamaConfig.from_pretrained(folder)
    return LlamaRotaryEmbedding(config).inv_freq.numpy()


def same(**changes: Any) -> Callable[[Path], None]:
    """Requires that RoPE frequencies and logits are those of transformers."""

    def proof(tmp_path: Path) -> None:
        folder = write_config(tmp_path / "llama", **changes)
        ours = rope_frequencies(read_config(folder))
        np.testing.assert_allclose(ours, theirs(folder), rtol=1e-6)
        model = transformers.LlamaForCausalLM.from_pretrained(folder).float().eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(WORDS)).logits.numpy()
        np.testing.assert_allclose(
            load_llama(folder).logits(jnp.asarray(WORDS)), logits, atol=2e-5
        )

    return proof


def scaled(changes: Mapping[str, Any], wanted: Callable[[], np.ndarray]) -> Any:
    """Requires what `same` does, and that the frequencies are these numbers."""

    def proof(tmp_path: Path) -> None:
        same(**changes)(tmp_path)
        ours = rope_frequencies(read_config(tmp_path / "llama"))
        np.testing.assert_allclose(ours, wanted(), rtol=1e-6)

    return proof


def plain(theta: float = 10_000.0, factor: float = 1.0) -> np.ndarray:
    return theta ** -(np.arange(0, 8, 2) / 8) / factor


def refused(said: str, **changes: Any) -> Callable[[Path], None]:
    """Requires that such a config.json is refused with this message."""

    def proof(tmp_path: Path) -> None:
        folder = write_config(tmp_path / "llama", **changes)
        with pytest.raises(UserError, match=said) as error:
            read_config(folder)
        assert "config.json" in str(error.value)

    return proof


def json_has_a_name_twice(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "llama")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "hidden_size": 32}')
    with pytest.raises(UserError, match="'hidden_size' twice"):
        read_config(folder)


def head_beside_tied(tmp_path: Path) -> None:
    same_head, other = tmp_path / "same", tmp_path / "other"
    tensors = write_hf(same_head)
    write_hf(other)
    for folder in (same_head, other):
        config = TINY_HF | {"tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, same_head / "model.safetensors")
    assert load_llama(same_head).lm_head is None
    model = transformers.LlamaForCausalLM.from_pretrained(other)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    with pytest.raises(UserError, match="set tie_word_embeddings to false to keep"):
        load_llama(other)
    with pytest.raises(UserError, match="set tie_word_embeddings to false to keep"):
        hf_to_hf(other, tmp_path / "new", max_shard_bytes=GB)


def untied_without_head(tmp_path: Path) -> None:
    write_hf(tmp_path / "llama", tied=True)
    config = TINY_HF | {"tie_word_embeddings": False}
    (tmp_path / "llama/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lm_head.weight; .*set tie_word_emb.* to true"):
        load_llama(tmp_path / "llama")


def dtype_is_that_of_the_tensors(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "llama", dtype="bfloat16", torch_dtype="float16")
    assert transformers.LlamaConfig.from_pretrained(folder).dtype == torch.bfloat16
    wanted = random_tensors(tied=False)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(load_llama(folder).embedding, wanted)
    hf_to_hf(folder, tmp_path / "new", max_shard_bytes=GB)
    written = json.loads((tmp_path / "new/config.json").read_text())
    assert written["torch_dtype"] == "bfloat16" and "dtype" not in written


def single_before_index(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    write_hf(folder, shards=3)
    one = {k: v + 1 for k, v in random_tensors(tied=False, seed=1).items()}
    save_file(one, folder / "model.safetensors", {"format": "pt"})
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    loaded = load_llama(folder)
    np.testing.assert_array_equal(
        loaded.embedding, model.model.embed_tokens.weight.detach().numpy()
    )
    np.testing.assert_array_equal(loaded.embedding, one["model.embed_tokens.weight"])
    assert shard_paths(folder) == [folder / "model.safetensors"]
    before = fingerprint(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert fingerprint(folder) == before


def index_says_another_shard(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    write_hf(folder, shards=3)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = sorted(set(index["weight_map"].values()))
    turned = {k: names[names.index(v) - 1] for k, v in index["weight_map"].items()}
    path.write_text(json.dumps(index | {"weight_map": turned}))
    for shard in names:
        save_file(load_file(folder / shard), folder / shard, {"format": "pt"})
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    np.testing.assert_array_equal(
        load_llama(folder).embedding, model.model.embed_tokens.weight.detach().numpy()
    )


def tensor_in_two_shards(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    write_hf(folder, shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    tensors = load_file(second) | dict(list(load_file(first).items())[:1])
    save_file(tensors, second)
    with pytest.raises(UserError, match="is in another shard as well"):
        load_llama(folder)


def metas_params_beside(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "llama")
    before = read_config(folder)
    (folder / "params.json").write_text('{"dim": 4096, "n_layers": 32}')
    assert read_config(folder) == before and load_llama(folder).config == before


def generation_config_beside(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "llama", bos_token_id=1, eos_token_id=2)
    text = '{"bos_token_id": 7, "eos_token_id": [2, 3]}'
    (folder / "generation_config.json").write_text(text)
    hf_to_hf(folder, tmp_path / "new", max_shard_bytes=GB)
    for one in (folder, tmp_path / "new"):
        found = transformers.GenerationConfig.from_pretrained(one)
        assert (found.bos_token_id, found.eos_token_id) == (7, [2, 3])
    assert json.loads((tmp_path / "new/config.json").read_text())["bos_token_id"] == 1


def write_tokenizer(folder: Path, begun: bool, **config: Any) -> None:
    """Writes a tokenizer of two words; `begun` adds <s> before texts."""
    vocab = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "<x>": 4}
    engine = Tokenizer(WordLevel(vocab, unk_token="<x>"))
    engine.add_special_tokens(["<s>", "</s>", "<x>"])
    if begun:
        engine.post_processor = TemplateProcessing(
            single=["<s>:0", "$A:0"], pair=["<s>:0", "$A:0", "$B:1"],
            special_tokens=[("<s>", 0)],
        )  # fmt: skip
    engine.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | config))


def tokenizer_settings(tmp_path: Path) -> None:
    for begun in (True, False):
        for config in ({}, {"add_bos_token": True}, {"add_bos_token": False}):
            write_tokenizer(tmp_path, begun, **config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
            tokens = tokens_of_texts(["a"], tmp_path / "tokenizer.json", 4)
            ours = [*tokens.prompt, *tokens.ids]
            assert ours == tokenizer("a").input_ids == ([0, 2] if begun else [2])


def tokenizer_model_beside(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, begun=True)
    (tmp_path / "tokenizer.model").write_bytes(b"another one, which nobody opens")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokens_of_texts(["a"], tokenizer_file(None, tmp_path), 4)
    assert [*tokens.prompt, *tokens.ids] == tokenizer("a").input_ids == [0, 2]


def llama_cpp_divisors(
    metadata: Mapping[str, Any], table: np.ndarray | None
) -> np.ndarray:
    """Returns what llama.cpp divides frequencies by (`load_hparams`, `ggml_rope`)."""
    scale = metadata.get("rope.scaling.factor", metadata.get("rope.scale_linear", 0.0))
    divisor = 1.0 if scale == 0.0 else scale
    if metadata.get("rope.scaling.type", "linear") == "none":
        divisor = 1.0
    return np.full(HEAD // 2, divisor) * (1 if table is None else table)


def convert_gguf(
    tmp_path: Path, changes: Mapping[str, Any], table: np.ndarray | None = None,
    **more: Any,
) -> Path:  # fmt: skip
    path, output = tmp_path / "a.gguf", tmp_path / "hf"
    arrays = {} if table is None else {"rope_freqs.weight": table.astype(np.float32)}
    write_gguf(path, metadata={**METADATA, **changes}, more=arrays, **more)
    gguf_to_hf(path, output, dtype=FLOATS["float32"], max_shard_bytes=GB)
    return output


def gguf(changes: Mapping[str, Any], table: Any = None) -> Callable[[Path], None]:
    """Requires that transformers reads the converted folder as llama.cpp the file."""

    def proof(tmp_path: Path) -> None:
        output = convert_gguf(tmp_path, changes, table)
        base = changes.get("rope.freq_base", 10_000.0)
        wanted = base ** -(np.arange(0, HEAD, 2) / HEAD)
        wanted = wanted / llama_cpp_divisors(changes, table)
        np.testing.assert_allclose(theirs(output), wanted, rtol=1e-4)
        ours = rope_frequencies(read_config(output))
        np.testing.assert_allclose(ours, theirs(output), rtol=1e-6)

    return proof


def no_gguf(
    said: str, changes: Mapping[str, Any], table: Any = None, **more: Any
) -> Callable[[Path], None]:
    def proof(tmp_path: Path) -> None:
        with pytest.raises(UserError, match=said) as error:
            convert_gguf(tmp_path, changes, table, **more)
        assert "a.gguf" in str(error.value) and not (tmp_path / "hf").exists()

    return proof


def output_beside_embedding(tmp_path: Path) -> None:
    tied = convert_gguf(tmp_path, {})
    assert read_config(tied).tied and "lm_head.weight" not in load_file(
        tied / "model.safetensors"
    )
    own = tmp_path / "own"
    own.mkdir()
    head = convert_gguf(own, {}, shapes={**SHAPES, "output": (VOCAB, 256)})
    assert not read_config(head).tied
    assert "lm_head.weight" in load_file(head / "model.safetensors")


def file_type_beside_types(tmp_path: Path) -> None:
    general = {"general.file_type": 0}  # says F32, and the tensors are Q8_0
    output = convert_gguf(tmp_path, {}, kind="Q8_0", general=general)
    values = load_file(output / "model.safetensors")["model.embed_tokens.weight"]
    assert len(np.unique(np.abs(values[0, :32]))) > 8


def one_number_for_each_layer(tmp_path: Path) -> None:
    output = convert_gguf(tmp_path, {"attention.head_count_kv": [2]})
    assert read_config(output).num_kv_heads == 2


def ends_of_texts(tmp_path: Path) -> None:
    """add_bos_token beside what `tokenizer.ggml.pre` means, and add_eos_token."""
    for number, (changes, wanted) in enumerate(
        [
            ({}, ["<s>", "the"]),
            ({"tokenizer.ggml.add_bos_token": False}, ["the"]),
            ({"tokenizer.ggml.add_eos_token": True}, ["<s>", "the", "</s>"]),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        general = tokenizer_metadata("llama-bpe") | changes
        output = convert_gguf(folder, {}, general=general)
        tokenizer = transformers.AutoTokenizer.from_pretrained(output)
        assert tokenizer.convert_ids_to_tokens(tokenizer("the").input_ids) == wanted


def key_value_heads(tmp_path: Path) -> None:
    config = write_config(tmp_path / "llama", num_key_value_heads=None)
    assert read_config(config).num_kv_heads == 4
    found = transformers.LlamaConfig.from_pretrained(config)
    assert found.num_key_value_heads == 4
    again = write_config(tmp_path / "head", head_dim=None)
    assert read_config(again).head == 4
    assert transformers.LlamaConfig.from_pretrained(again).head_dim == 4


def vocab_size_beside_tokens(tmp_path: Path) -> None:
    general = tokenizer_metadata("smollm")
    output = convert_gguf(tmp_path, {"vocab_size": 99}, general=general)
    assert read_config(output).vocab == VOCAB
