"""Read and write `config.json` of a Llama: sizes, RoPE and its scaling, norms.

Some settings have two names. They are read as transformers 5 reads them, and refused
if transformers fails or if its older versions read something else; the pairs are
listed in tests/test_convert_twice.py.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from convert.diagnosis import (
    ARCHITECTURE,
    CONFIG,
    check_architecture,
    check_folder,
)
from convert.json_file import read_object
from convert.quantized import check_settings
from eqids.config import LlamaConfig, RopeScaling, UserError, from_json, require

_CONTEXT = 2048
"""transformers' default of `max_position_embeddings` for a Llama."""
_SUPPORTED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
"""Fields of which one value is supported."""
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor",
         "original_max_position_embeddings")  # fmt: skip
_DTYPE = ("torch_dtype", "dtype")
"""Two names of the same field of config.json."""


def read_config(folder: Path) -> LlamaConfig:
    """Returns the config of the Llama in a folder.

    RoPE settings may be in `rope_parameters`, as transformers 5 writes them, or in
    `rope_theta` and `rope_scaling`. If a file has both, `rope_scaling` counts, as in
    transformers.

    Raises:
        UserError: the file is missing, is not a Llama's, or has a setting that is not
            supported; the message names the file, the field and what was wanted.
    """
    check_folder(folder)
    path = folder / CONFIG
    values = read_object(path)
    require(
        "error" not in values or "hidden_size" in values,
        f"{path} holds the answer of a server ({values.get('error')!r}), wanted the "
        "config.json of a Llama: download it again, after `hf auth login` if the "
        "model is gated",
    )
    _check_supported(path, values)
    return _named(path, partial(_llama_config, path, values))


def read_config_file(path: Path) -> LlamaConfig:
    """Returns the sizes of a Llama that a file describes.

    Args:
        path: a config.json as on the hub, or a JSON object with the fields of
            `LlamaConfig`.

    Raises:
        UserError: the file is neither, or has a setting that is not supported; the
            message names the file, the field and what was wanted.
    """
    values = read_object(path)
    if "hidden_size" in values or "model_type" in values:
        _check_supported(path, values)
        return _named(path, partial(_llama_config, path, values))
    for field in dataclasses.fields(LlamaConfig):
        if field.type is int and field.name in values:
            _whole(path, field.name, values[field.name])
        elif field.type is float and field.name in values:
            values[field.name] = _number(path, field.name, values[field.name])
    tied = values.get("tied", False)
    require(isinstance(tied, bool), f"{path}: tied is {tied!r}, wanted true or false")
    scaling = values.get("rope_scaling")
    require(
        scaling is None,
        f"{path}: rope_scaling is {scaling!r}, wanted null; a config.json as on the "
        "hub may have a scaling",
    )
    return _named(path, partial(from_json, LlamaConfig, values, str(path)))


def base_config(folder: Path, dtype: str | None) -> dict[str, Any]:
    """Returns the content of a folder's config.json, without settings named twice.

    Settings that have two names are written as `hf_config` writes them, so that any
    version of transformers reads the same; other fields are copied.

    Args:
        folder: the folder of a Llama.
        dtype: of the tensors; by default the one in the folder's config.json.
    """
    values = read_object(folder / CONFIG)
    # If a file has both, transformers reads `dtype`.
    stored = dtype or values.get("dtype") or values.get("torch_dtype")
    ours = hf_config(read_config(folder), stored)
    out = {key: one for key, one in values.items() if key not in _ROPE + _DTYPE}
    if any(key in values for key in _ROPE):
        out |= {key: ours[key] for key in ("rope_theta", "rope_scaling")}
    return out if stored is None else out | {"torch_dtype": stored}


def hf_config(config: LlamaConfig, dtype: str | None, **more: Any) -> dict[str, Any]:
    """Returns the content of a config.json that any version of transformers reads.

    RoPE's settings are `rope_theta` and `rope_scaling`, the dtype is `torch_dtype`.

    Args:
        config: of the Llama.
        dtype: of the tensors, or None to leave the field out.
        more: other fields, such as `eos_token_id`.
    """
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_settings_of(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        **more,
    }


def _named(path: Path, read: Callable[[], LlamaConfig]) -> LlamaConfig:
    """Returns what `read` returns, and names the file in what it refuses."""
    try:
        return read()
    except UserError as error:
        text = str(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error


def _llama_config(path: Path, values: Mapping[str, Any]) -> LlamaConfig:
    def size(name: str, default: int | None = None) -> int:
        value: Any = values.get(name)
        return _whole(path, name, default if value is None else value)

    width, num_heads = size("hidden_size"), size("num_attention_heads")
    require(
        width % num_heads == 0,
        f"{path}: hidden_size is {width}, wanted a multiple of num_attention_heads "
        f"({num_heads}), as transformers does",
    )
    tied = values.get("tie_word_embeddings", False)
    require(
        isinstance(tied, bool),
        f"{path}: tie_word_embeddings is {tied!r}, wanted true or false",
    )
    theta, scaling = _rope(path, values)
    return LlamaConfig(
        width=width,
        num_layers=size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=size("num_key_value_heads", num_heads),
        head=size("head_dim", width // num_heads),
        ffn=size("intermediate_size"),
        vocab=size("vocab_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=_number(path, "rms_norm_eps", values.get("rms_norm_eps", 1e-6)),
        tied=tied,
    )


def _check_supported(path: Path, values: Mapping[str, Any]) -> None:
    check_settings(path, values)
    check_architecture(path, values.get("architectures"), values.get("model_type"))
    for name, value in _SUPPORTED.items():
        require(
            values.get(name, value) == value,
            f"{path}: {name} is {values.get(name)!r}, only {value!r} is supported",
        )
    for name in ("per_layer_config", "transformers_weights"):
        require(
            not values.get(name),
            f"{path}: {name} is {values.get(name)!r}, which is not supported: wanted "
            "a Llama whose layers are alike, with its weights in model.safetensors",
        )


def _rope(path: Path, values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Returns RoPE's base (theta) and scaling, read as transformers 5 reads them.

    This follows its `convert_rope_params_to_dict` and `standardize_rope_params`.
    """
    rope = _rope_settings(path, values)
    theta = _number(
        path, "rope_theta", rope.get("rope_theta", values.get("rope_theta", 10_000.0))
    )
    require(theta > 0, f"{path}: rope_theta is {theta}, wanted more than 0")
    name = "partial_rotary_factor"
    share = rope.get(name, 1 if values.get(name) is None else values[name])
    require(
        share == 1,
        f"{path}: {name} is {share!r}, wanted 1: RoPE on a part of each head is not "
        "supported",
    )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    require(
        kind in ("linear", "llama3"),
        f"{path}: rope_type is {kind!r}, wanted 'default', 'linear' or 'llama3'",
    )
    return theta, _scaling(path, values, rope, kind)


def _rope_settings(path: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object with RoPE's settings, `rope_scaling` if there are two."""
    rope: dict[str, Any] = {}
    for name in ("rope_parameters", "rope_scaling"):
        found = values.get(name)
        require(
            found is None
            or isinstance(found, dict)
            and not any(isinstance(one, dict) for one in found.values()),
            f"{path}: {name} is {found!r}, wanted one object for all layers, or null",
        )
        rope = found or rope
    return rope


def _scaling(
    path: Path, values: Mapping[str, Any], rope: Mapping[str, Any], kind: str
) -> RopeScaling:
    def setting(name: str) -> float:
        require(name in rope, f"{path}: rope settings of {kind!r} have no {name}")
        return _number(path, name, rope[name])

    if kind == "linear":
        return RopeScaling("linear", setting("factor"))
    name = "original_max_position_embeddings"
    original = rope.get(name, values.get("max_position_embeddings", _CONTEXT))
    # Phi-3 has it outside of RoPE's settings, and transformers prefers that.
    original = _number(path, name, values.get(name, original))
    return RopeScaling(
        "llama3",
        setting("factor"),
        setting("low_freq_factor"),
        setting("high_freq_factor"),
        _whole(path, name, int(original) if original.is_integer() else original),
    )


def _whole(path: Path, name: str, value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and 0 < value < 2**31:
        return value
    raise UserError(
        f"{path}: {name} is {value!r}, wanted a whole number from 1 to 2**31 - 1"
    )


def _number(path: Path, name: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise UserError(f"{path}: {name} is {value!r}, wanted a finite number")


def _rope_settings_of(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    rope = {"rope_type": scaling.rope_type, "factor": scaling.factor}
    if scaling.rope_type == "linear":
        return rope
    original = "original_max_position_embeddings"
    return rope | {
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        original: scaling.original_max_position_embeddings,
    }
