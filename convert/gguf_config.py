"""Read the config of the Llama in a GGUF file, as llama.cpp reads it.

Some settings can be stored twice. They are read as in `load_hparams` of
src/llama-model.cpp; the pairs are listed in tests/test_convert_twice.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.gguf_file import GgufFile
from eqids.config import LlamaConfig, RopeScaling, UserError, require

ROPE_TABLE = "rope_freqs.weight"
"""The tensor of divisors of llama3's RoPE scaling; its settings are not stored."""
_VOCAB_SIZE = "llama.vocab_size"
_SCALED = ("logit_scale", "attention.scale", "embedding_scale", "residual_scale")
"""Keys of models whose blocks are not those of a Llama."""


def gguf_config(file: GgufFile) -> LlamaConfig:
    """Returns the config of the Llama in a GGUF file.

    Raises:
        UserError: the architecture or the RoPE scaling is not supported, or a size is
            missing or not plausible.
    """
    path, metadata = file.path, file.metadata
    _check_kind(path, metadata)
    _check_supported(path, metadata)
    require("token_embd.weight" in file.tensors, f"{path} has no token_embd.weight")
    try:
        return _llama_config(file)
    except UserError as error:
        text = str(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error


def _llama_config(file: GgufFile) -> LlamaConfig:
    path, metadata = file.path, file.metadata

    def size(name: str, default: int | None = None) -> int:
        value = metadata.get(f"llama.{name}", default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number for each layer
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise UserError(f"{path}: llama.{name} is {value!r}, wanted a whole number")

    width, num_heads = size("embedding_length"), size("attention.head_count")
    head = size("attention.key_length", width // max(num_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        require(
            size(name, head) == head,
            f"{path}: llama.{name} is {size(name, head)}, wanted the size of a head, "
            f"{head}",
        )
    theta = _number(metadata, "llama.rope.freq_base", 10_000.0)
    return LlamaConfig(
        width=width,
        num_layers=size("block_count"),
        num_heads=num_heads,
        num_kv_heads=size("attention.head_count_kv", num_heads),
        head=head,
        ffn=size("feed_forward_length"),
        vocab=_vocab(file),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, theta, head),
        norm_eps=_norm_eps(metadata),
        tied="output.weight" not in file.tensors,
    )


def _check_kind(path: Path, metadata: Mapping[str, Any]) -> None:
    """Requires a whole model of the architecture llama, in one file."""
    parts, part = (metadata.get(f"split.{name}", 0) for name in ("count", "no"))
    require(
        not isinstance(parts, int) or parts <= 1,
        f"{path} is one of {parts} parts of a model (split.no is {part}), wanted one "
        "file: join them with `llama-gguf-split --merge FIRST_PART FILE`",
    )
    kind = metadata.get("general.type", "model")
    require(
        kind == "model",
        f"{path}: general.type is {kind!r}, wanted 'model'"
        + (": add the adapter to its base with `llama-export-lora -m BASE --lora "
           f"{path} -o FILE`" if kind == "adapter" else ", the weights of a Llama"),
    )  # fmt: skip
    found = metadata.get("general.architecture")
    require(
        found == "llama",
        f"{path}: general.architecture is {found!r}, wanted 'llama': other models "
        "are not supported, give a GGUF file of Llama 2, Llama 3 or SmolLM2",
    )


def _check_supported(path: Path, metadata: Mapping[str, Any]) -> None:
    """Requires that no key changes what a Llama computes."""
    for name in _SCALED:
        value = metadata.get(f"llama.{name}", 1.0)
        require(value in (0, 1), f"{path}: llama.{name} is {value!r}, wanted 1")
    experts = metadata.get("llama.expert_count", 0)
    require(
        experts == 0,
        f"{path}: llama.expert_count is {experts}: the model is a mixture of experts, "
        "wanted a Llama",
    )


def _vocab(file: GgufFile) -> int:
    """Returns the rows of the embedding, which must equal the number of tokens."""
    rows = file.tensors["token_embd.weight"].shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        name, wanted = "tokenizer.ggml.tokens has", len(tokens)
    else:
        name, wanted = "llama.vocab_size is", file.metadata.get(_VOCAB_SIZE, rows)
    require(
        wanted == rows,
        f"{name} {wanted!r}, and token_embd.weight has {rows} rows; wanted the same "
        "number, as llama.cpp does: convert the model again from its own folder",
    )
    return rows


def _number(metadata: Mapping[str, Any], key: str, default: float | None) -> float:
    value = metadata.get(key, default)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(f"{key} is {value!r}, wanted a floating-point number")


def _norm_eps(metadata: Mapping[str, Any]) -> float:
    """Returns the epsilon as a short decimal number: 1e-5, not 9.99999974e-6."""
    value = _number(metadata, "llama.attention.layer_norm_rms_epsilon", None)
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, theta: float, head: int) -> RopeScaling | None:
    """Returns RoPE's scaling, as llama.cpp reads it.

    llama.cpp divides all frequencies by a factor, and each by its entry of a table.
    """
    divisors = np.full(head // 2, _factor(file.metadata))
    if ROPE_TABLE in file.tensors:
        table = np.concatenate(list(file.rows(ROPE_TABLE))).reshape(-1)
        require(
            table.shape == divisors.shape and bool(np.all(table > 0)),
            f"{ROPE_TABLE} has shape {list(table.shape)}, wanted {head // 2} positive "
            "numbers",
        )
        divisors = divisors * table
    if np.all(divisors == divisors[0]):
        factor = float(divisors[0])
        return None if factor == 1 else RopeScaling("linear", factor)
    return _llama3_scaling(divisors, theta, head)


def _factor(metadata: Mapping[str, Any]) -> float:
    """Returns what all frequencies are divided by: llama.cpp's `rope_freq_scale`.

    Without a type the scaling is linear. If `rope.scaling.factor` is missing, its older
    name `rope.scale_linear` counts. A factor of 0 means no scaling (`load_hparams`).
    """
    kind = metadata.get("llama.rope.scaling.type", "linear")
    require(
        kind in ("none", "linear"),
        f"llama.rope.scaling.type is {kind!r}, wanted 'none' or 'linear'",
    )
    attention = metadata.get("llama.rope.scaling.attn_factor", 1.0)
    require(
        attention == 1,
        f"llama.rope.scaling.attn_factor is {attention!r}, which only yarn has; "
        "wanted 1",
    )
    name, older = "llama.rope.scaling.factor", "llama.rope.scale_linear"
    factor = _number(metadata, name if name in metadata else older, 0.0)
    return 1.0 if kind == "none" or factor == 0 else factor


def _llama3_scaling(table: np.ndarray, theta: float, head: int) -> RopeScaling:
    """Returns llama3's settings that give a table of divisors (Llama 3.1 and later).

    The largest divisor is the factor. The other settings are assumed to be those of
    every published Llama; the table they give must be the file's.
    """
    frequency = theta ** -(np.arange(0, head, 2) / head)
    low, high, original = 1.0, 4.0, 8192
    factor = float(table.max())
    turns = original * frequency / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    wanted = 1 / ((1 - smooth) / factor + smooth)
    require(
        np.allclose(table, wanted, rtol=1e-4),
        f"{ROPE_TABLE} is not what Llama 3.1's scaling gives (factor {factor}, "
        f"{original} positions before it), alone or times the metadata's factor",
    )
    return RopeScaling("llama3", factor, low, high, original)
