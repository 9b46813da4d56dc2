"""Folders whose weights are quantized, by every method that is known."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from folders import TINY_HF, random_tensors, write_hf
from safetensors.numpy import save_file

Make = Callable[[Path], Path | None]
"""Makes a path from an empty folder; returns it, or nothing if it is the folder."""
SINGLE = "model.safetensors"
Q = "model.layers.0.self_attn.q_proj"
BEFORE = "give the folder of the model before it was quantized"
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def sound(change: Callable[[Path], object], shards: int = 1) -> Make:
    """A sound folder after a change."""

    def make(folder: Path) -> Path:
        write_hf(folder / "llama", shards=shards)
        change(folder / "llama")
        return folder / "llama"

    return make


def packed(
    dtype: str, bits: int, more: Mapping[str, tuple[str, int]], **config: Any
) -> Make:
    """A folder whose query matrix has another dtype and tensors beside it.

    Args:
        dtype: of the matrix, as safetensors calls it.
        bits: of a value.
        more: suffixes of tensors beside it, their dtypes and bits.
        config: what config.json says besides.
    """

    def make(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(TINY_HF | config))
        header: dict[str, Any] = {}
        data = b""

        def put(key: str, kind: str, shape: list[int], content: bytes) -> None:
            nonlocal data
            offsets = [len(data), len(data) + len(content)]
            header[key] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
            data += content

        for key, array in random_tensors(tied=False).items():
            if key != f"{Q}.weight":
                put(key, "F32", list(array.shape), array.tobytes())
        put(f"{Q}.weight", dtype, [512, 1], bytes(512 * bits // 8))
        for suffix, (kind, size) in more.items():
            put(Q + suffix, kind, [16], bytes(16 * size // 8))
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + data
        (folder / SINGLE).write_bytes(content)

    return make


def quantized(**settings: Any) -> Make:
    def change(folder: Path) -> None:
        config = TINY_HF | settings
        (folder / "config.json").write_text(json.dumps(config))

    return sound(change)


def integers(folder: Path) -> None:
    tensors = random_tensors(tied=False)
    tensors["model.norm.weight"] = np.ones(16, np.int32)
    save_file(tensors, folder / SINGLE)


QUANTIZED: Mapping[str, tuple[Make, str, str]] = {
    # Weights that are quantized: as config.json says, and as the tensors say.
    "bitsandbytes 4 by config": (
        quantized(quantization_config=BNB4), r"\(bitsandbytes, 4 bits\)",
        r"dequantize\(\)"),
    "bitsandbytes 8 by config": (
        quantized(quantization_config=BNB8), r"\(bitsandbytes, 8 bits\)", BEFORE),
    "gptq by config": (
        quantized(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"\(gptq, 4 bits\)", BEFORE),
    "awq by config": (
        quantized(quantization_config={"quant_method": "awq", "bits": 4}),
        r"\(awq, 4 bits\)", BEFORE),
    "fp8 by config": (
        quantized(quantization_config={"quant_method": "fp8"}), r"\(fp8\)",
        "FineGrainedFP8Config"),
    "compressed-tensors by config": (
        quantized(quantization_config={"quant_method": "compressed-tensors"}),
        r"\(compressed-tensors\)", BEFORE),
    "compression_config": (
        quantized(compression_config={"format": "pack-quantized"}),
        "compression_config of config.json says", BEFORE),
    "mxfp4 by config": (
        quantized(quantization_config={"quant_method": "mxfp4"}), r"\(mxfp4\)",
        "Mxfp4Config"),
    "a method to come": (
        quantized(quantization_config={"quant_method": "novel"}), r"\(novel\)", BEFORE),
    "MLX, quantized": (
        quantized(quantization={"group_size": 64, "bits": 4}), r"\(MLX, 4 bits\)",
        "mlx_lm.convert --dequantize"),
    "MLX, quantized, said twice": (
        quantized(quantization={"bits": 4}, quantization_config={"bits": 4}),
        r"\(MLX, 4 bits\)", "mlx_lm.convert --dequantize"),
    "AutoGPTQ's own file": (
        sound(lambda f: (f / "quantize_config.json").write_text("{}")),
        "quantize_config.json says", BEFORE),
    "bitsandbytes 4": (
        packed("U8", 8, {".weight.absmax": ("F32", 32),
                         ".weight.quant_map": ("F32", 32),
                         ".weight.quant_state.bitsandbytes__nf4": ("U8", 8)}),
        "bitsandbytes, 4 bits", BEFORE),
    "bitsandbytes 8": (
        packed("I8", 8, {".SCB": ("F32", 32)}), "bitsandbytes, 8 bits", BEFORE),
    "gptq": (
        packed("F16", 16, {".qweight": ("I32", 32), ".qzeros": ("I32", 32),
                           ".scales": ("F16", 16), ".g_idx": ("I32", 32)}),
        r"\(gptq\)", BEFORE),
    "awq": (
        packed("F16", 16, {".qweight": ("I32", 32), ".qzeros": ("I32", 32),
                           ".scales": ("F16", 16)}), r"\(gptq or awq\)", BEFORE),
    "fp8 E4M3": (packed("F8_E4M3", 8, {}), r"F8_E4M3.*\(fp8\)", BEFORE),
    "fp8 E5M2": (packed("F8_E5M2", 8, {}), r"F8_E5M2.*\(fp8\)", BEFORE),
    "fp8 with scales": (
        packed("F8_E4M3", 8, {".weight_scale": ("F32", 32)}), "fp8", BEFORE),
    "compressed-tensors": (
        packed("F32", 32, {".weight_packed": ("I32", 32)}), "compressed-tensors",
        BEFORE),
    "mxfp4": (
        packed("F32", 32, {".weight_blocks": ("U8", 8), ".weight_scales": ("U8", 8)}),
        r"\(mxfp4\)", BEFORE),
    "MLX": (
        packed("U32", 32, {".scales": ("F16", 16), ".biases": ("F16", 16)}),
        r"\(MLX\)", BEFORE),
    "integers": (
        sound(integers), "model.norm.weight has dtype I32, wanted F64", BEFORE),
}  # fmt: skip
"""How each is made, and patterns of its cause and of the way out."""
