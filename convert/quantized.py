"""Refuse quantized weights: name the method, and how to get floating-point ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eqids.config import UserError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of weights that are read, as safetensors calls them."""
_WANTED = f"wanted {', '.join(FLOATS[:-1])} or {FLOATS[-1]}"
_UNQUANTIZED = "give the folder of the model before it was quantized"
_DEQUANTIZED = (
    f"{_UNQUANTIZED}, or write one with transformers: AutoModelForCausalLM."
    "from_pretrained('{folder}').dequantize().save_pretrained(DIR)"
)
_LOADED_AS = (
    f"{_UNQUANTIZED}, or write one with transformers: AutoModelForCausalLM."
    "from_pretrained('{folder}', quantization_config=CONFIG(dequantize=True))"
    ".save_pretrained(DIR), CONFIG being "
)
_REMEDIES: Mapping[str, str] = {
    "bitsandbytes": _DEQUANTIZED,
    "fp8": f"{_LOADED_AS}FineGrainedFP8Config",
    "mxfp4": f"{_LOADED_AS}Mxfp4Config",
    "compressed-tensors": f"{_LOADED_AS}CompressedTensorsConfig",
    "MLX": f"{_UNQUANTIZED}, or write one with `mlx_lm.convert --dequantize`",
}
"""What to do, by `quant_method`; for other methods, take the original model."""
_SETTINGS = ("quantization", "quantization_config", "compression_config")
"""Fields of config.json: of MLX, of transformers, of older compressed-tensors."""
_FILES = ("quantize_config.json", "quant_config.json")
"""Settings that AutoGPTQ and AutoAWQ write beside config.json."""
_NAMES: Mapping[str, str] = {
    "quant_state.bitsandbytes": "bitsandbytes, 4 bits",
    ".quant_map": "bitsandbytes, 4 bits",
    ".absmax": "bitsandbytes, 4 bits",
    ".SCB": "bitsandbytes, 8 bits",
    "_blocks": "mxfp4",
    ".g_idx": "gptq",
    ".qzeros": "gptq or awq",
    ".qweight": "gptq or awq",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "fp8 or compressed-tensors",
    ".input_scale": "fp8 or compressed-tensors",
    ".biases": "MLX",
    ".W_q": "hqq",
    ".codebooks": "aqlm",
}
"""Methods by a part of a tensor's name; the first row that matches counts."""
_TYPES: Mapping[str, str] = {
    "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F8_E8M0": "mxfp4", "F4": "mxfp4",
    "F6_E2M3": "mxfp6", "F6_E3M2": "mxfp6",
}  # fmt: skip


def check_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Requires that neither config.json nor a file beside it names a quantization.

    Raises:
        UserError: one does; the message names the method and what to do.
    """
    for name in _SETTINGS:
        found = values.get(name)
        if not found:
            continue
        method = "MLX" if name == "quantization" else "an unknown method"
        settings = found if isinstance(found, Mapping) else {}
        method = str(settings.get("quant_method", method))
        bits = [f"{settings['bits']} bits"] if "bits" in settings else []
        bits += [f"{n} bits" for n in (4, 8) if settings.get(f"load_in_{n}bit") is True]
        sign = f"{name} of {path.name}"
        raise _error(path.parent, sign, ", ".join([method, *bits]))
    for name in _FILES:
        if (path.parent / name).is_file():
            raise _error(path.parent, name, "gptq or awq")


def check_dtypes(folder: Path, dtypes: Mapping[str, str]) -> None:
    """Requires that all tensors of a folder are floating-point numbers.

    Args:
        folder: for messages.
        dtypes: by the tensors' names, as safetensors calls them.

    Raises:
        UserError: one is not, or has the name of a quantized tensor.
    """
    for mark, method in _NAMES.items():
        for key, dtype in dtypes.items():
            if mark in key:
                raise _error(folder, f"tensor {key} ({dtype})", method)
    for key, dtype in dtypes.items():
        if dtype in _TYPES:
            raise _error(folder, f"tensor {key} ({dtype})", _TYPES[dtype])
        if dtype not in FLOATS:
            raise UserError(
                f"{folder}: {key} has dtype {dtype}, {_WANTED}: integers are packed or "
                f"quantized weights; {_UNQUANTIZED}"
            )


def _error(folder: Path, sign: str, method: str) -> UserError:
    remedy = _REMEDIES.get(method.split(",")[0].split(" or ")[0], _UNQUANTIZED)
    return UserError(
        f"{folder}: {sign} says that the weights are quantized ({method}), {_WANTED}: "
        + remedy.format(folder=folder)
    )
