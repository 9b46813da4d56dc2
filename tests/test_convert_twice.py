"""What a format can say twice: a table of all pairs, and each row is tried.

The oracle of folders is transformers itself, reading the same files. That of GGUF is
`load_hparams` of llama.cpp (src/llama-model.cpp), written out in `llama_cpp_divisors`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from folders import TINY_HF, random_tensors, write_hf
from ggufs import HEAD, METADATA, SHAPES, VOCAB, write_gguf
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file
from test_convert_gguf import llama3_table, tokenizer_metadata
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
from eqids.data.text import tokenizer_file, words_of_texts
from eqids.model.rope import rope_frequencies

GB = 10**9
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0}
WORDS = np.array([[1, 5, 2, 7, 3, 3, 11, 0, 9, 4, 8, 6]])


def write_config(folder: Path, **changes: Any) -> Path:
    """Writes a sound folder whose config.json has changes; `...` takes a field out."""
    write_hf(folder)
    config = {k: v for k, v in (TINY_HF | changes).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def theirs(folder: Path) -> np.ndarray:
    """The rotary frequencies that transformers computes."""
    config = transformers.LlamaConfig.from_pretrained(folder)
    return LlamaRotaryEmbedding(config).inv_freq.numpy()


def same(**changes: Any) -> Callable[[Path], None]:
    """Rotary frequencies and logits are those of transformers."""

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
    """As `same`, and the frequencies are these numbers."""

    def proof(tmp_path: Path) -> None:
        same(**changes)(tmp_path)
        ours = rope_frequencies(read_config(tmp_path / "llama"))
        np.testing.assert_allclose(ours, wanted(), rtol=1e-6)

    return proof


def plain(theta: float = 10_000.0, factor: float = 1.0) -> np.ndarray:
    return theta ** -(np.arange(0, 8, 2) / 8) / factor


def refused(said: str, **changes: Any) -> Callable[[Path], None]:
    """A folder with such a config.json is refused in these words."""

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
    """A tokenizer of two words, whose texts may begin with <s>."""
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
            words = words_of_texts(["a"], tmp_path / "tokenizer.json", 4)
            ours = [*words.prompt, *words.ids]
            assert ours == tokenizer("a").input_ids == ([0, 2] if begun else [2])


def tokenizer_model_beside(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, begun=True)
    (tmp_path / "tokenizer.model").write_bytes(b"another one, which nobody opens")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    words = words_of_texts(["a"], tokenizer_file(None, tmp_path), 4)
    assert [*words.prompt, *words.ids] == tokenizer("a").input_ids == [0, 2]


def llama_cpp_divisors(
    metadata: Mapping[str, Any], table: np.ndarray | None
) -> np.ndarray:
    """What llama.cpp divides frequencies by, as `load_hparams` and `ggml_rope` do."""
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
    """A GGUF file becomes a folder that transformers reads as llama.cpp reads it."""

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


NO_BOS = tokenizer_metadata("llama-bpe")
NO_BOS.pop("tokenizer.ggml.bos_token_id")
YARN = {"rope_type": "yarn", "factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 500_000.0}


@dataclass(frozen=True)
class Pair:
    """Two ways to say one thing."""

    what: str
    """The two."""
    theirs: str
    """What the format's own loader does."""
    ours: str
    """What EqIDs does."""
    proof: Callable[[Path], None]
    """Tries it."""


SAME = "the same"
PAIRS = (
    # config.json: transformers 5, configuration_utils.py and modeling_rope_utils.py.
    Pair("rope_scaling beside a default rope_parameters", "rope_scaling counts, with "
         "its own or the top's rope_theta", SAME,
         scaled({"rope_scaling": LINEAR, "rope_parameters": DEFAULT},
                lambda: plain(factor=4.0))),
    Pair("rope_scaling (yarn) beside a default rope_parameters", "rope_scaling counts",
         "refuses yarn by name",
         refused("rope_type is 'yarn'", rope_scaling=YARN, rope_parameters=DEFAULT)),
    Pair("rope_scaling beside rope_parameters of another kind", "rope_scaling counts",
         SAME, same(rope_scaling=LLAMA3, rope_parameters=LINEAR)),
    Pair("rope_scaling null or empty beside rope_parameters", "rope_parameters counts",
         SAME, scaled({"rope_scaling": None, "rope_parameters": LINEAR | DEFAULT
                       | {"rope_type": "linear"}}, lambda: plain(500_000.0, 4.0))),
    Pair("rope_scaling {} beside rope_parameters", "rope_parameters counts", SAME,
         same(rope_scaling={}, rope_parameters=LINEAR)),
    Pair("rope_theta at the top and inside", "inside counts", SAME,
         scaled({"rope_theta": 7.0, "rope_parameters": DEFAULT},
                lambda: plain(500_000.0))),
    Pair("rope_theta at the top beside rope_scaling without one", "the top counts",
         SAME, scaled({"rope_theta": 7, "rope_scaling": LINEAR},
                      lambda: plain(7.0, 4.0))),
    Pair("rope_theta null inside beside one at the top", "fails", "refuses",
         refused("rope_theta is None", rope_theta=7.0,
                 rope_scaling=LINEAR | {"rope_theta": None})),
    Pair("type beside rope_type", "rope_type counts", SAME,
         scaled({"rope_scaling": {"type": "linear", "rope_type": "default",
                                  "factor": 4.0}}, plain)),
    Pair("type alone", "is rope_type", SAME,
         scaled({"rope_scaling": {"type": "linear", "factor": 4}},
                lambda: plain(factor=4.0))),
    Pair("rope_type null beside type", "fails", "refuses",
         refused("rope_type is None", rope_scaling={"type": "linear", "factor": 4,
                                                    "rope_type": None})),
    Pair("factor beside rope_type default", "factor is ignored", SAME,
         scaled({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, plain)),
    Pair("original_max_position_embeddings at the top and inside", "the top counts",
         SAME, same(rope_scaling=LLAMA3, original_max_position_embeddings=16)),
    Pair("original_max_position_embeddings nowhere, beside max_position_embeddings",
         "max_position_embeddings counts", SAME,
         same(max_position_embeddings=32,
              rope_scaling={k: v for k, v in LLAMA3.items() if "original" not in k})),
    Pair("original_max_position_embeddings and max_position_embeddings nowhere",
         "2048, its default", SAME,
         same(rope_scaling={k: v for k, v in LLAMA3.items() if "original" not in k})),
    Pair("low_freq_factor left out of llama3", "fails", "refuses",
         refused("have no low_freq_factor",
                 rope_scaling={k: v for k, v in LLAMA3.items() if "low" not in k})),
    Pair("partial_rotary_factor at the top or inside", "inside counts; version 5 "
         "ignores it at a default rope_type, version 4 did not", "refuses all but 1",
         refused("partial_rotary_factor is 0.5", partial_rotary_factor=0.5)),
    Pair("rope_parameters by layer_types", "one for each type of layer", "refuses",
         refused("one object for all layers",
                 rope_parameters={"full_attention": LINEAR},
                 layer_types=["full_attention"] * 2)),
    Pair("head_dim null beside hidden_size / num_attention_heads", "the quotient",
         SAME, lambda tmp_path: key_value_heads(tmp_path)),
    Pair("hidden_size no multiple of num_attention_heads beside head_dim", "fails",
         "refuses", refused("hidden_size is 18, wanted a multiple", hidden_size=18)),
    Pair("num_key_value_heads null beside num_attention_heads", "as many", SAME,
         lambda tmp_path: key_value_heads(tmp_path)),
    Pair("tie_word_embeddings beside lm_head.weight", "ties them if they are equal, "
         "else keeps both", "the same if they are equal, else refuses",
         head_beside_tied),
    Pair("tie_word_embeddings false without lm_head.weight", "makes a random head",
         "refuses", untied_without_head),
    Pair("tie_word_embeddings as a text", "fails", "refuses",
         refused("tie_word_embeddings is 'false'", tie_word_embeddings="false")),
    Pair("dtype beside torch_dtype, and the tensors' own", "dtype, and casts to it",
         "what the caller asks for; writes the one that counts as torch_dtype",
         dtype_is_that_of_the_tensors),
    Pair("architectures beside model_type", "AutoModel takes model_type", "refuses "
         "where they differ", refused("model_type 'mistral'", model_type="mistral")),
    Pair("a name twice in one JSON object", "the last counts", "refuses",
         json_has_a_name_twice),
    Pair("transformers_weights beside model.safetensors", "the file it names counts",
         "refuses", refused("transformers_weights is", transformers_weights="a.bin")),
    Pair("quantization_config beside float weights", "quantizes or fails", "refuses",
         refused(r"quantized \(gptq, 4 bits\)",
                 quantization_config={"quant_method": "gptq", "bits": 4})),
    # The files of a folder: transformers 5, modeling_utils.py.
    Pair("model.safetensors beside model.safetensors.index.json", "the single file "
         "counts", SAME, single_before_index),
    Pair("an index that names another shard than holds a tensor", "tensors are where "
         "they are", SAME, index_says_another_shard),
    Pair("a tensor in two shards", "the last counts", "refuses", tensor_in_two_shards),
    Pair("config.json beside params.json", "config.json counts", SAME,
         metas_params_beside),
    Pair("generation_config.json beside ids in config.json", "generation_config.json "
         "counts", "reads neither, writes both as they are", generation_config_beside),
    Pair("add_bos_token in tokenizer_config.json beside the post-processor of "
         "tokenizer.json", "tokenizer.json counts", SAME, tokenizer_settings),
    Pair("tokenizer.json beside tokenizer.model", "tokenizer.json counts", SAME,
         tokenizer_model_beside),
    # GGUF: llama.cpp, src/llama-model.cpp, load_hparams.
    Pair("rope.scale_linear without rope.scaling.factor", "linear by it", SAME,
         gguf({"rope.scale_linear": 4.0})),
    Pair("rope.scale_linear beside rope.scaling.factor", "the factor counts", SAME,
         gguf({"rope.scale_linear": 4.0, "rope.scaling.factor": 2.0})),
    Pair("rope.scaling.factor without a type", "linear", SAME,
         gguf({"rope.scaling.factor": 2.0})),
    Pair("rope.scaling.factor of 0 beside rope.scale_linear", "no scaling", SAME,
         gguf({"rope.scale_linear": 4.0, "rope.scaling.factor": 0.0})),
    Pair("rope.scaling.type none beside a factor", "no scaling", SAME,
         gguf({"rope.scaling.type": "none", "rope.scaling.factor": 2.0})),
    Pair("rope.scaling.type linear without a factor", "no scaling", SAME,
         gguf({"rope.scaling.type": "linear"})),
    Pair("rope.scaling.type yarn or longrope", "computes them", "refuses",
         no_gguf("type is 'yarn'", {"rope.scaling.type": "yarn",
                                    "rope.scaling.factor": 2.0})),
    Pair("rope.scaling.type unknown", "fails", "refuses",
         no_gguf("type is 'su'", {"rope.scaling.type": "su"})),
    Pair("rope.scaling.attn_factor beside linear", "scales cosines and sines",
         "refuses all but 1",
         no_gguf("attn_factor is 1.5", {"rope.scaling.attn_factor": 1.5})),
    Pair("rope.scaling.original_context_length beside linear", "only yarn reads it",
         SAME, gguf({"rope.scaling.factor": 2.0,
                     "rope.scaling.original_context_length": 64})),
    Pair("rope_freqs.weight of ones beside a factor", "both divide", SAME,
         gguf({"rope.scaling.factor": 2.0}, np.ones(HEAD // 2))),
    Pair("rope_freqs.weight of llama3 beside type none and a factor", "the table "
         "divides", SAME,
         gguf({"rope.scaling.type": "none", "rope.scaling.factor": 2.0},
              llama3_table(8.0, HEAD, 10_000.0))),
    Pair("rope_freqs.weight of llama3 beside a factor", "both divide", "refuses, for "
         "config.json cannot say it",
         no_gguf("is not what", {"rope.scaling.factor": 2.0},
                 llama3_table(8.0, HEAD, 10_000.0))),
    Pair("rope.freq_base left out", "10,000", SAME, gguf({"rope.freq_base": 10_000.0})),
    Pair("attention.key_length beside embedding_length / head_count", "key_length "
         "counts", SAME, gguf({"attention.key_length": HEAD})),
    Pair("attention.key_length beside rope.dimension_count", "fails if they differ",
         "refuses", no_gguf("dimension_count is 32", {"rope.dimension_count": 32})),
    Pair("a number for each layer beside one for all", "each its own", "the same if "
         "all are equal, else refuses", one_number_for_each_layer),
    Pair("output.weight beside token_embd.weight", "the head, if it is there", SAME,
         output_beside_embedding),
    Pair("tokens beside rows of token_embd.weight", "fails if they differ", "refuses",
         no_gguf(f"has {VOCAB}, and token_embd.weight has 36 rows", {},
                 general=tokenizer_metadata("smollm"),
                 shapes={**SHAPES, "token_embd": (36, 256)})),
    Pair("vocab_size beside tokens", "tokens count", SAME,
         lambda tmp_path: vocab_size_beside_tokens(tmp_path)),
    Pair("vocab_size without tokens beside rows of token_embd.weight", "fails if they "
         "differ", "refuses", no_gguf("vocab_size is 99", {"vocab_size": 99})),
    Pair("general.file_type beside the tensors' types", "the tensors' types count",
         SAME, file_type_beside_types),
    Pair("add_bos_token and add_eos_token beside tokenizer.ggml.pre", "they count",
         SAME, ends_of_texts),
    Pair("add_bos_token without bos_token_id", "takes token 11", "refuses",
         no_gguf("texts have a bos token", {}, general=NO_BOS)),
)  # fmt: skip


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


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.what for pair in PAIRS])
def test_each_pair_is_read_as_its_loader_reads_it(pair: Pair, tmp_path: Path) -> None:
    pair.proof(tmp_path)


NUMBERS = st.sampled_from([1, 1.0, 2, 2.5, 8])
THETAS = st.sampled_from([100, 10_000.0, 500_000])
CONTEXTS = st.sampled_from([16, 64, 8192.0])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, in any order."""
    chosen = st.fixed_dictionaries({}, optional=fields)
    return chosen.flatmap(lambda d: st.permutations(list(d.items()))).map(dict)


def ropes(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Rotary settings of all kinds, by either name of the kind or both."""
    kinds = st.sampled_from(["default", "linear", "llama3"])
    return some(
        rope_type=kinds, type=kinds, rope_theta=THETAS, factor=NUMBERS,
        low_freq_factor=st.sampled_from([1, 1.0, 1.5]),
        high_freq_factor=st.sampled_from([2, 4.0]),
        original_max_position_embeddings=CONTEXTS, **more,
    )  # fmt: skip


WHOLE = some(
    rope_scaling=st.none() | ropes(),
    rope_parameters=st.none() | ropes(),
    rope_theta=THETAS,
    max_position_embeddings=st.sampled_from([32, 131_072]),
    original_max_position_embeddings=st.sampled_from([16, 128]),
)
ODD = st.sampled_from([None, True, "8", -1, 0, 0.5, [2.0], {"a": 1}, 1e400])
DAMAGED = some(
    rope_scaling=ODD | ropes(partial_rotary_factor=st.sampled_from([None, 0.5, 1])),
    rope_parameters=ODD | ropes().flatmap(
        lambda rope: st.sampled_from(sorted(rope) or ["factor"]).flatmap(
            lambda name: ODD.map(lambda odd: rope | {name: odd})
        )
    ),
    rope_theta=ODD | THETAS,
    max_position_embeddings=st.just(64),
    original_max_position_embeddings=ODD | st.just(16),
    partial_rotary_factor=ODD | st.just(1),
)  # fmt: skip


def outcome(read: Callable[[], np.ndarray], errors: Any) -> np.ndarray | None:
    """Frequencies, or nothing where they are refused or are no numbers."""
    try:
        found = read()
    except errors:
        return None
    return found if np.isfinite(found).all() else None


@settings(max_examples=400, deadline=None)
@given(changes=WHOLE)
def test_any_two_spellings_are_read_as_transformers_reads_them(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sound values: what transformers reads is read, and is the same."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(TINY_HF | changes))
    wanted = outcome(lambda: theirs(folder), Exception)
    ours = outcome(lambda: rope_frequencies(read_config(folder)), UserError)
    assert (ours is None) == (wanted is None)
    if ours is not None and wanted is not None:
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@settings(max_examples=300, deadline=None)
@given(changes=DAMAGED)
def test_odd_values_are_refused_or_read_as_transformers_reads_them(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(TINY_HF | changes))
    ours = outcome(lambda: rope_frequencies(read_config(folder)), UserError)
    if ours is not None:
        np.testing.assert_allclose(ours, theirs(folder), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    changes=WHOLE,
    dtypes=some(dtype=st.just("float32"), torch_dtype=st.just("float16")),
)
def test_what_we_write_says_everything_once(
    changes: dict[str, Any], dtypes: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    tmp_path = tmp_path_factory.mktemp("once")
    folder = write_config(tmp_path / "llama", **changes, **dtypes)
    wanted = outcome(lambda: theirs(folder), Exception)
    if wanted is None:
        return
    hf_to_hf(folder, tmp_path / "new", max_shard_bytes=GB)
    written = json.loads((tmp_path / "new/config.json").read_text())
    assert not {"rope_parameters", "dtype", "original_max_position_embeddings"} & set(
        written
    )
    assert not {"type", "rope_theta"} & set(written.get("rope_scaling") or {})
    np.testing.assert_allclose(theirs(tmp_path / "new"), wanted, rtol=1e-6)
    assert read_config(tmp_path / "new") == read_config(folder)
    if dtypes:
        found = transformers.LlamaConfig.from_pretrained(folder).dtype
        assert transformers.LlamaConfig.from_pretrained(tmp_path / "new").dtype == found


@settings(max_examples=30, deadline=None)
@given(
    changes=some(**{
        "rope.scaling.type": st.sampled_from(["none", "linear"]),
        "rope.scaling.factor": st.sampled_from([0.0, 1.0, 2.0, 4.5]),
        "rope.scale_linear": st.sampled_from([0.0, 1.0, 3.0]),
        "rope.freq_base": st.sampled_from([10_000.0, 500_000.0]),
    }),
    table=st.sampled_from([None, 1.0, 4.0]),
)  # fmt: skip
def test_any_scaling_of_gguf_is_read_as_llama_cpp_reads_it(
    changes: dict[str, Any], table: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    rows = None if table is None else np.full(HEAD // 2, table)
    gguf(changes, rows)(tmp_path_factory.mktemp("gguf"))
