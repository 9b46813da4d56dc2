"""Convert a GGUF file of a Llama to a Hugging Face folder."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from convert.gguf_config import ROPE_TABLE, gguf_config
from convert.gguf_file import SUPPORTED, GgufFile, read_gguf
from convert.gguf_tokenizer import token_ids, tokenizer_files
from convert.hf_config import hf_config
from convert.hf_write import llama_tensors, write_llama
from convert.outputs import Progress, Weight, output_folder
from eqids.config import LlamaConfig, require

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
"""Hugging Face's names and GGUF's, both without `.weight` at the end."""


def gguf_to_hf(
    path: Path,
    output: Path,
    *,
    dtype: np.dtype,
    max_shard_bytes: int,
    advance: Progress = lambda done, total: None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Writes the Llama and the tokenizer of a GGUF file as a Hugging Face folder.

    Args:
        path: the file.
        output: the folder to write.
        dtype: of the tensors.
        max_shard_bytes: the largest size of a safetensors file.
        advance: called for every part of a tensor that was written.
        report: called with the reason if no tokenizer is written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the file is damaged or holds no supported Llama, `output` exists
            already or cannot be written, or a value does not fit `dtype`.
    """
    file = read_gguf(path)
    config = gguf_config(file)
    weights, more = _weights(file, config), token_ids(file.metadata)
    context = file.metadata.get("llama.context_length")
    if context is not None:
        more["max_position_embeddings"] = context
    files = tokenizer_files(file, report)
    with output_folder(output, advance) as new:
        content = hf_config(config, str(dtype), **more)
        write_llama(new, weights, content, dtype, max_shard_bytes)
        for name, data in files.items():
            new.write(name, data)
    return new.digests


def check_gguf(file: GgufFile) -> LlamaConfig:
    """Requires that a GGUF file holds a whole Llama of supported types.

    Raises:
        UserError: as `gguf_to_hf` does.
    """
    config = gguf_config(file)
    _weights(file, config)
    return config


def _weights(file: GgufFile, config: LlamaConfig) -> dict[str, Weight]:
    """Returns the tensors by Hugging Face's names, checked, to be read when written."""
    path = file.path
    weights, used = {}, {ROPE_TABLE}
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
            f"{', '.join(SUPPORTED)}: convert it with `llama-quantize "
            f"--allow-requantize {path} FILE F16`",
        )
        permuted = {"q_proj": config.head, "k_proj": config.head}
        head = permuted.get(key.split(".")[-2], 0)
        weights[key] = Weight(
            tensor.shape, np.dtype(np.float32), _parts(file, name, head)
        )
        used.add(name)
    surplus = sorted(set(file.tensors) - used)
    require(
        not surplus,
        f"{path} has {len(surplus)} tensors that no Llama has, the first is "
        f"{surplus[0] if surplus else ''}",
    )
    return weights


def _gguf_name(key: str) -> str:
    stem = key.removesuffix(".weight")
    tokens = stem.split(".")
    layer = tokens[2] if stem.startswith("model.layers.") else ""
    if layer:
        stem = ".".join([*tokens[:2], "{}", *tokens[3:]])
    return _KEYS[stem].format(layer) + ".weight"


def _parts(file: GgufFile, name: str, head: int) -> Callable[[], Iterator[np.ndarray]]:
    """Returns a function that yields the values of a tensor in Hugging Face's order.

    Args:
        file: that holds the tensor.
        name: of the tensor in the file.
        head: size of a head if its rows must be reordered, else 0. GGUF stores the two
            rows of a rotary pair side by side, Hugging Face all first rows of a head
            before all second ones.
    """

    def parts() -> Iterator[np.ndarray]:
        for rows in file.rows(name, max(head, 1)):
            if head:
                pairs = rows.reshape(-1, head // 2, 2, rows.shape[-1])
                rows = pairs.swapaxes(1, 2).reshape(rows.shape)
            yield rows

    return parts
