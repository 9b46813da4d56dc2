"""Settings that a format can store twice: a table of all pairs, each of them tested."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ggufs import HEAD, SHAPES, VOCAB
from test_convert_gguf import llama3_table, tokenizer_metadata
from twice import (
    LINEAR,
    LLAMA3,
    dtype_is_that_of_the_tensors,
    ends_of_texts,
    file_type_beside_types,
    generation_config_beside,
    gguf,
    head_beside_tied,
    index_says_another_shard,
    json_has_a_name_twice,
    key_value_heads,
    metas_params_beside,
    no_gguf,
    one_number_for_each_layer,
    output_beside_embedding,
    plain,
    refused,
    same,
    scaled,
    single_before_index,
    tensor_in_two_shards,
    tokenizer_model_beside,
    tokenizer_settings,
    untied_without_head,
    vocab_size_beside_tokens,
)

NO_BOS = tokenizer_metadata("llama-bpe")
NO_BOS.pop("tokenizer.ggml.bos_token_id")
YARN = {"rope_type": "yarn", "factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 500_000.0}


@dataclass(frozen=True)
class Pair:
    """Two ways to store one setting."""

    what: str
    """The two ways."""
    theirs: str
    """What the format's own loader does."""
    ours: str
    """What EqIDs does."""
    proof: Callable[[Path], None]
    """Tests it."""


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
         SAME, key_value_heads),
    Pair("hidden_size no multiple of num_attention_heads beside head_dim", "fails",
         "refuses", refused("hidden_size is 18, wanted a multiple", hidden_size=18)),
    Pair("num_key_value_heads null beside num_attention_heads", "as many", SAME,
         key_value_heads),
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
    Pair("output.weight beside token_embd.weight", "the head, if it exists", SAME,
         output_beside_embedding),
    Pair("tokens beside rows of token_embd.weight", "fails if they differ", "refuses",
         no_gguf(f"has {VOCAB}, and token_embd.weight has 36 rows", {},
                 general=tokenizer_metadata("smollm"),
                 shapes={**SHAPES, "token_embd": (36, 256)})),
    Pair("vocab_size beside tokens", "tokens count", SAME,
         vocab_size_beside_tokens),
    Pair("vocab_size without tokens beside rows of token_embd.weight", "fails if they "
         "differ", "refuses", no_gguf("vocab_size is 99", {"vocab_size": 99})),
    Pair("general.file_type beside the tensors' types", "the tensors' types count",
         SAME, file_type_beside_types),
    Pair("add_bos_token and add_eos_token beside tokenizer.ggml.pre", "they count",
         SAME, ends_of_texts),
    Pair("add_bos_token without bos_token_id", "takes token 11", "refuses",
         no_gguf("adds a bos token to texts", {}, general=NO_BOS)),
)  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.what for pair in PAIRS])
def test_each_pair_is_read_as_its_loader_reads_it(pair: Pair, tmp_path: Path) -> None:
    pair.proof(tmp_path)
