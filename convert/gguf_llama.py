"""A GGUF file of a Llama, as a Hugging Face folder."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from convert.gguf_config import ROPE_TABLE, gguf_config
from convert.gguf_file import SUPPORTED, GgufFile, read_gguf
from convert.gguf_tokenizer import token_ids, tokenizer_files
from convert.hf_write import hf_config, llama_tensors, write_llama
from convert.outputs import Advance, Weight, new_folder
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
"""Hugging Face's names and GGUF's; both go on with `.weight`."""


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


def check_gguf(file: GgufFile) -> LlamaConfig:
    """Requires that a GGUF file holds a whole Llama of types that are read.

    Raises:
        UserError: as `gguf_to_hf` does.
    """
    config = gguf_config(file)
    _weights(file, config)
    return config


def _weights(file: GgufFile, config: LlamaConfig) -> dict[str, Weight]:
    """The tensors by Hugging Face's names, each checked, and read when written."""
    path = file.path
    weights, known = {}, {ROPE_TABLE}
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
    tokens = stem.split(".")
    layer = tokens[2] if stem.startswith("model.layers.") else ""
    if layer:
        stem = ".".join([*tokens[:2], "{}", *tokens[3:]])
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
