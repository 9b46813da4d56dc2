"""Hugging Face folders of random weights."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TINY_HF = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 12,
}


def random_tensors(tied: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of a `TINY_HF`, by the names of Hugging Face."""
    heads, kv_heads, width, ffn = 32, 16, 16, 24
    layer = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (kv_heads, width),
        "self_attn.v_proj": (kv_heads, width),
        "self_attn.o_proj": (width, heads),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width),
        "mlp.down_proj": (width, ffn),
    }
    shapes = {f"model.layers.{n}.{k}": v for n in range(2) for k, v in layer.items()}
    shapes |= {"model.embed_tokens": (12, width), "model.norm": (width,)}
    if not tied:
        shapes["lm_head"] = (12, width)
    rng = np.random.default_rng(seed)
    return {
        f"{name}.weight": (0.3 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_hf(
    folder: Path, *, tied: bool = False, shards: int = 1, bfloat16: bool = False
) -> dict[str, np.ndarray]:
    """Writes a tiny Llama; returns its tensors in float32."""
    tensors = random_tensors(tied)
    if bfloat16:
        tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
    folder.mkdir()
    config = {**TINY_HF, "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        where = {}
        for n in range(shards):
            name = f"model-{n + 1:05}-of-{shards:05}.safetensors"
            own = dict(list(tensors.items())[n::shards])
            save_file(own, folder / name)
            where |= dict.fromkeys(own, name)
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {key: value.astype(np.float32) for key, value in tensors.items()}
