"""A GGUF file of a Llama, as a Hugging Face folder."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.gguf_file import SUPPORTED, GgufFile, read_gguf
from convert.gguf_tokenizer import token_ids, tokenizer_files
from convert.hf_write import hf_config, llama_tensors, write_llama
from convert.outputs import Advance, Weight, new_folder
from eqids.config import LlamaConfig, RopeScaling, UserError, require

_BLOCK, _LAYER = "blk.{}.", "model.layers.{}."
_KEYS: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    _LAYER + "input_layernorm": _BLOCK + "attn_norm",
    _LAYER + "self_attn.q_proj": _BLOCK + "attn_q",
    _LAYER + "self_attn.k_proj": _BLOCK + "attn_k",
    _LAYER + "self_attn.v_proj": _BLOCK + "attn_v",
    _LAYER + "self_attn.o_proj": _BLOCK + "attn_output",
    _LAYER + "post_attention_layernorm": _BLOCK + "ffn_norm",
    _LAYER + "mlp.gate_proj": _BLOCK + "ffn_gate",
    _LAYER + "mlp.up_proj": _BLOCK + "ffn_up",
    _LAYER + "mlp.down_proj": _BLOCK + "ffn_down",
}
"""Hugging Face's names and GGUF's; both go on with `.weight`."""
_ROPE_TABLE = "rope_freqs.weight"
"""What llama3's scaling divides each frequency by; its settings are not in the file."""
_VOCAB_SIZE = "llama.vocab_size"
_SCALED = ("logit_scale", "attention.scale", "embedding_scale", "residual_scale")
"""Keys of models whose blocks compute something else."""


def gguf_to_hf(
    path: Path,
    output: Path,
    *,
    dtype: np.dtype,
    max_shard_bytes: int,
    advance: Advance = lambda done, total: None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Writes the Llama and the tokenizer of a GGUF file as a Hugging Face folder.

    Args:
        path: the file.
        output: the folder to write.
        dtype: of the tensors.
        max_shard_bytes: of a safetensors file, where there is more than one.
        advance: hears of bytes as they are written.
        report: hears why there is no tokenizer, where there is none.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the file is damaged or holds no Llama that is supported, `output`
            is there already or cannot be written, or a value does not fit `dtype`.
    """
    file = read_gguf(path)
    config = gguf_config(file)
    weights = _weights(file, config)
    more = token_ids(file.metadata)
    context = file.metadata.get("llama.context_length")
    if context is not None:
        more["max_position_embeddings"] = context
    files = tokenizer_files(file, report)
    with new_folder(output, advance) as new:
        write_llama(
            new, weights, hf_config(config, str(dtype), **more), dtype, max_shard_bytes
        )
        for name, data in files.items():
            new.write(name, data)
    return new.digests


def gguf_config(file: GgufFile) -> LlamaConfig:
    """Returns the sizes of the Llama in a GGUF file.

    Raises:
        UserError: another architecture, a size is missing or unlikely, or scaling of
            rotary frequencies that is not supported.
    """
    path, metadata = file.path, file.metadata
    _check_kind(path, metadata)
    _check_supported(path, metadata)

    def size(name: str, default: int | None = None) -> int:
        value = metadata.get(f"llama.{name}", default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number for each layer
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise UserError(f"{path}: llama.{name} is {value!r}, wanted a whole number")

    require("token_embd.weight" in file.tensors, f"{path} has no token_embd.weight")
    width, num_heads = size("embedding_length"), size("attention.head_count")
    head = size("attention.key_length", width // max(num_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        require(
            size(name, head) == head,
            f"{path}: llama.{name} is {size(name, head)}, wanted the size of a head, "
            f"{head}",
        )
    try:
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
            norm_eps=_short(metadata),
            tied="output.weight" not in file.tensors,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_kind(path: Path, metadata: Mapping[str, Any]) -> None:
    """Requires one whole model of the architecture llama."""
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
    """Requires that no key asks for something that a Llama does not compute."""
    for name in _SCALED:
        value = metadata.get(f"llama.{name}", 1.0)
        require(
            value in (0, 1), f"{path}: llama.{name} is {value!r}, which no Llama has"
        )
    experts = metadata.get("llama.expert_count", 0)
    require(
        experts == 0,
        f"{path}: llama.expert_count is {experts}: the model is a mixture of experts, "
        "wanted a Llama",
    )


def _vocab(file: GgufFile) -> int:
    """Returns the number of tokens, which llama.cpp wants the embedding to have."""
    rows = file.tensors["token_embd.weight"].shape[0]
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        name, wanted = "tokenizer.ggml.tokens has", len(tokens)
    else:
        name, wanted = "llama.vocab_size is", file.metadata.get(_VOCAB_SIZE, rows)
    require(
        wanted == rows,
        f"{name} {wanted!r}, and token_embd.weight has {rows} rows; wanted as many, "
        "as llama.cpp does: convert the model again from its own folder",
    )
    return rows


def _number(metadata: Mapping[str, Any], key: str, default: float | None) -> float:
    value = metadata.get(key, default)
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(f"{key} is {value!r}, wanted a floating-point number")


def _short(metadata: Mapping[str, Any]) -> float:
    """The decimal number that a float32 was made of: 1e-5, not 9.99999974e-6."""
    value = _number(metadata, "llama.attention.layer_norm_rms_epsilon", None)
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, theta: float, head: int) -> RopeScaling | None:
    """Returns the scaling of frequencies, as llama.cpp reads it.

    It divides every frequency by a factor, and each by its row of a table besides.
    """
    divisors = np.full(head // 2, _factor(file.metadata))
    if _ROPE_TABLE in file.tensors:
        table = np.concatenate(list(file.rows(_ROPE_TABLE))).reshape(-1)
        require(
            table.shape == divisors.shape and bool(np.all(table > 0)),
            f"{_ROPE_TABLE} has shape {list(table.shape)}, wanted {head // 2} positive "
            "numbers",
        )
        divisors = divisors * table
    if np.all(divisors == divisors[0]):
        factor = float(divisors[0])
        return None if factor == 1 else RopeScaling("linear", factor)
    return _llama3_scaling(divisors, theta, head)


def _factor(metadata: Mapping[str, Any]) -> float:
    """Returns what every frequency is divided by: llama.cpp's `rope_freq_scale`.

    A file that names no type means linear; the key before `rope.scaling.factor` counts
    where that is missing, and a factor of 0 means none (`load_hparams`).
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
    now, before = "llama.rope.scaling.factor", "llama.rope.scale_linear"
    factor = _number(metadata, now if now in metadata else before, 0.0)
    return 1.0 if kind == "none" or factor == 0 else factor


def _llama3_scaling(table: np.ndarray, theta: float, head: int) -> RopeScaling:
    """The settings of Llama 3.1 and later that give a table of divisors.

    What is scaled least is divided by 1 and what is scaled most by the factor; the
    other settings are those of every published Llama, and are tried.
    """
    frequency = theta ** -(np.arange(0, head, 2) / head)
    low, high, original = 1.0, 4.0, 8192
    factor = float(table.max())
    turns = original * frequency / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    wanted = 1 / ((1 - smooth) / factor + smooth)
    require(
        np.allclose(table, wanted, rtol=1e-4),
        f"{_ROPE_TABLE} is not what Llama 3.1's scaling gives (factor {factor}, "
        f"{original} positions before it), alone or times the metadata's factor",
    )
    return RopeScaling("llama3", factor, low, high, original)


def _weights(file: GgufFile, config: LlamaConfig) -> dict[str, Weight]:
    """The tensors by Hugging Face's names, each checked, and read when written."""
    path = file.path
    weights, known = {}, {_ROPE_TABLE}
    for key, (_, tensor) in llama_tensors(config).items():
        name = _gguf_name(key)
        require(name in file.tensors, f"{path} has no tensor {name}")
        found = file.tensors[name]
        require(
            found.shape == tensor.shape,
            f"{path}: {name} has shape {list(found.shape)}, wanted "
            f"{list(tensor.shape)}",
        )
        require(
            found.kind in SUPPORTED,
            f"{path}: {name} has type {found.kind}, wanted one of "
            f"{', '.join(SUPPORTED)}: write it so with `llama-quantize "
            f"--allow-requantize {path} FILE F16`",
        )
        permuted = {"q_proj": config.head, "k_proj": config.head}
        head = permuted.get(key.split(".")[-2], 0)
        weights[key] = Weight(
            tensor.shape, np.dtype(np.float32), _parts(file, name, head)
        )
        known.add(name)
    surplus = sorted(set(file.tensors) - known)
    require(
        not surplus,
        f"{path} has {len(surplus)} tensors that a Llama has not, the first is "
        f"{surplus[0] if surplus else ''}",
    )
    return weights


def _gguf_name(key: str) -> str:
    stem = key.removesuffix(".weight")
    words = stem.split(".")
    layer = words[2] if stem.startswith("model.layers.") else ""
    if layer:
        stem = ".".join([*words[:2], "{}", *words[3:]])
    return _KEYS[stem].format(layer) + ".weight"


def _parts(file: GgufFile, name: str, head: int) -> Callable[[], Iterator[np.ndarray]]:
    """Returns the reader of a tensor.

    Args:
        file: where it is.
        name: in the file.
        head: size of a head whose rows GGUF has with the two of a rotary pair side by
            side, where Hugging Face has one half of each pair after the other; 0 for
            other tensors.
    """

    def parts() -> Iterator[np.ndarray]:
        for rows in file.rows(name, max(head, 1)):
            if head:
                pairs = rows.reshape(-1, head // 2, 2, rows.shape[-1])
                rows = pairs.swapaxes(1, 2).reshape(rows.shape)
            yield rows

    return parts
