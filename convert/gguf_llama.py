"""A GGUF file of a Llama, as a Hugging Face folder."""

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
    found = metadata.get("general.architecture")
    require(
        found == "llama",
        f"{path}: general.architecture is {found!r}, wanted 'llama': other models "
        "are not supported",
    )

    def size(name: str, default: int | None = None) -> int:
        value = metadata.get(f"llama.{name}", default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise UserError(f"{path}: llama.{name} is {value!r}, wanted a whole number")

    for name in _SCALED:
        value = metadata.get(f"llama.{name}", 1.0)
        require(
            value in (0, 1), f"{path}: llama.{name} is {value!r}, which no Llama has"
        )
    require("token_embd.weight" in file.tensors, f"{path} has no token_embd.weight")
    width, num_heads = size("embedding_length"), size("attention.head_count")
    head = size("attention.key_length", width // max(num_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        require(
            size(name, head) == head,
            f"{path}: llama.{name} is {size(name, head)}, wanted the size of a head, "
            f"{head}",
        )
    theta = float(metadata.get("llama.rope.freq_base", 10_000.0))
    try:
        return LlamaConfig(
            width=width,
            num_layers=size("block_count"),
            num_heads=num_heads,
            num_kv_heads=size("attention.head_count_kv", num_heads),
            head=head,
            ffn=size("feed_forward_length"),
            vocab=file.tensors["token_embd.weight"].shape[0],
            rope_theta=theta,
            rope_scaling=_rope_scaling(file, theta, head),
            norm_eps=_short(metadata.get("llama.attention.layer_norm_rms_epsilon")),
            tied="output.weight" not in file.tensors,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _short(value: Any) -> float:
    """The decimal number that a float32 was made of: 1e-5, not 9.99999974e-6."""
    require(
        isinstance(value, float),
        f"llama.attention.layer_norm_rms_epsilon is {value!r}, wanted a number",
    )
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, theta: float, head: int) -> RopeScaling | None:
    if _ROPE_TABLE in file.tensors:
        table = np.concatenate(list(file.rows(_ROPE_TABLE)))[0]
        return _llama3_scaling(table, theta, head)
    kind = file.metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    require(
        kind == "linear",
        f"llama.rope.scaling.type is {kind!r}, wanted 'none' or 'linear'",
    )
    factor = file.metadata.get("llama.rope.scaling.factor")
    require(
        isinstance(factor, float),
        f"llama.rope.scaling.factor is {factor!r}, wanted a number",
    )
    assert isinstance(factor, float)
    return RopeScaling("linear", factor)


def _llama3_scaling(table: np.ndarray, theta: float, head: int) -> RopeScaling:
    """The settings of Llama 3.1 and later that give a table of divisors.

    What is scaled least is divided by 1 and what is scaled most by the factor; the
    other settings are those of every published Llama, and are tried.
    """
    frequency = theta ** -(np.arange(0, head, 2) / head)
    scaling = RopeScaling("llama3", float(table.max()), 1.0, 4.0, 8192)
    turns = scaling.original_max_position_embeddings * frequency / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    wanted = 1 / ((1 - smooth) / scaling.factor + smooth)
    require(
        table.shape == wanted.shape and np.allclose(table, wanted, rtol=1e-4),
        f"{_ROPE_TABLE} is not what Llama 3.1's scaling gives (factor "
        f"{scaling.factor}, 8192 positions before it)",
    )
    return scaling


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
            f"{', '.join(SUPPORTED)}",
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
