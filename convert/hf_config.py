"""`config.json` of a Hugging Face Llama, as a `LlamaConfig`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.json_file import read_object
from eqids.config import LlamaConfig, RopeScaling, UserError, require

ARCHITECTURE = "LlamaForCausalLM"


def read_config(folder: Path) -> LlamaConfig:
    """Reads the sizes of the Llama in a folder.

    Both spellings of rotary settings are read: transformers 5's `rope_parameters`,
    and `rope_theta` with `rope_scaling` before it.

    Raises:
        UserError: no such file, not a Llama, or a setting that is not supported; it
            names the file, the field and what was wanted.
    """
    path = folder / "config.json"
    require(folder.is_dir(), f"{folder}: no such folder, wanted a Hugging Face Llama")
    require(path.is_file(), f"{folder} has no config.json, wanted a Hugging Face Llama")
    values = read_object(path)
    _check_supported(path, values)

    def size(name: str, default: int | None = None) -> int:
        value: Any = values.get(name)
        value = default if value is None else value
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and 0 < value < 2**31:
            return value
        raise UserError(
            f"{path}: {name} is {value!r}, wanted a whole number from 1 to 2**31 - 1"
        )

    width, num_heads = size("hidden_size"), size("num_attention_heads")
    theta, scaling = _rope(path, values)
    try:
        return LlamaConfig(
            width=width,
            num_layers=size("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=size("num_key_value_heads", num_heads),
            head=size("head_dim", width // max(num_heads, 1)),
            ffn=size("intermediate_size"),
            vocab=size("vocab_size"),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=_number(path, "rms_norm_eps", values, 1e-6),
            tied=bool(values.get("tie_word_embeddings", False)),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_supported(path: Path, values: Mapping[str, Any]) -> None:
    names = values.get("architectures") or [ARCHITECTURE]
    require(
        names == [ARCHITECTURE] and values.get("model_type", "llama") == "llama",
        f"{path}: architectures is {names!r} and model_type "
        f"{values.get('model_type')!r}, wanted {ARCHITECTURE} and 'llama'",
    )
    wanted = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for name, value in wanted.items():
        require(
            values.get(name, value) == value,
            f"{path}: {name} is {values.get(name)!r}, only {value!r} is supported",
        )


def _rope(path: Path, values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    require(
        isinstance(rope, dict), f"{path}: rope settings are {rope!r}, wanted an object"
    )
    theta = _number(path, "rope_theta", rope, values.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    require(
        kind in ("linear", "llama3"),
        f"{path}: rope_type is {kind!r}, wanted 'default', 'linear' or 'llama3'",
    )
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    given: dict[str, Any] = {
        name: _number(path, name, rope, None) for name in names if name in rope
    }
    if names[2] in given:
        given[names[2]] = int(given[names[2]])
    require("factor" in rope, f"{path}: rope settings have no factor")
    return theta, RopeScaling(kind, _number(path, "factor", rope, None), **given)


def _number(path: Path, name: str, values: Mapping[str, Any], default: Any) -> float:
    value = values.get(name, default)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise UserError(f"{path}: {name} is {value!r}, wanted a number")
