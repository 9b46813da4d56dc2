"""GGUF files of tiny Llamas, written by the `gguf` package's own writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

HEADS, KV_HEADS, HEAD, WIDTH, FFN, VOCAB = 4, 2, 64, 256, 256, 37
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk.0.attn_norm": "model.layers.0.input_layernorm",
    "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
}
SHAPES = {
    "token_embd": (VOCAB, WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.attn_q": (HEADS * HEAD, WIDTH),
    "blk.0.attn_k": (KV_HEADS * HEAD, WIDTH),
    "blk.0.attn_v": (KV_HEADS * HEAD, WIDTH),
    "blk.0.attn_output": (WIDTH, HEADS * HEAD),
    "blk.0.ffn_norm": (WIDTH,),
    "blk.0.ffn_gate": (FFN, WIDTH),
    "blk.0.ffn_up": (FFN, WIDTH),
    "blk.0.ffn_down": (WIDTH, FFN),
}
METADATA: Mapping[str, Any] = {
    "block_count": 1,
    "embedding_length": WIDTH,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "context_length": 512,
    "rope.dimension_count": HEAD,
    "rope.freq_base": 10_000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def quantized(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Random blocks of a type: quantised, or made up where the package cannot."""
    known = GGMLQuantizationType[kind]
    values = (0.3 * rng.standard_normal(shape)).astype(np.float32)
    if kind not in ("Q4_K", "Q6_K"):
        return gguf.quantize(values, known)
    block, num_bytes = GGML_QUANT_SIZES[known]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // block, num_bytes), np.uint8)
    scales = (rng.random((*blocks.shape[:2], 2)) / 100).astype(np.float16)
    where = slice(0, 4) if kind == "Q4_K" else slice(num_bytes - 2, num_bytes)
    count = (where.stop - where.start) // 2
    blocks[..., where] = scales[..., :count].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write_gguf(
    path: Path,
    kind: str = "F32",
    *,
    arch: str = "llama",
    metadata: Mapping[str, Any] = METADATA,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    more: Mapping[str, np.ndarray] | None = None,
    general: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Writes a file; matrices are of type `kind`, vectors F32."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {
        **{f"{arch}.{key}": value for key, value in metadata.items()},
        **(general or {}),
    }.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, shape in shapes.items():
        one = "F32" if len(shape) == 1 else kind
        data = quantized(one, shape, rng)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=GGMLQuantizationType[one])
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
