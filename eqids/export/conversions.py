"""The subcommands of `python -m convert`, once its flags are read."""

from collections.abc import Mapping

from convert.gguf_llama import gguf_to_hf
from convert.hf_write import hf_to_hf
from convert.hub_upload import CARD, check_push, push_pair
from convert.outputs import FLOATS, Progress
from eqids.cli import Counted, check_output, say, say_above_bars, waiting
from eqids.config import (
    ConversionConfig,
    EqidsToHfConfig,
    EqidsToOnnxConfig,
    EqidsToOrbaxConfig,
    EqidsToStablehloConfig,
    GgufToHfConfig,
    HfToHfConfig,
    InspectConfig,
    ItemsConfig,
    OrbaxToEqidsConfig,
    PushConfig,
)
from eqids.export.export_hf import eqids_to_hf
from eqids.export.export_items import export_items
from eqids.export.export_onnx import eqids_to_onnx
from eqids.export.export_orbax import eqids_to_orbax, orbax_to_eqids
from eqids.export.export_stablehlo import eqids_to_stablehlo
from eqids.export.inspecting import inspect
from eqids.export.model_card import UNKNOWN
from eqids.io.atomic import write_json


def run_conversion(config: InspectConfig | PushConfig | ConversionConfig) -> None:
    """Inspects or pushes a path, or converts it and prints the SHA-256 of every file.

    Raises:
        UserError: the input cannot be read, the output cannot be written, or the hub
            refuses it.
    """
    if isinstance(config, InspectConfig):
        _inspect(config)
    elif isinstance(config, PushConfig):
        push_pair(config, say)
    else:
        _write(config)


def _write(config: ConversionConfig) -> None:
    """Converts a path, prints the SHA-256 of every file, and pushes them if wanted."""
    push = None
    if isinstance(config, EqidsToHfConfig) and config.push_to is not None:
        push = PushConfig(config.output, config.push_to, config.private)
        check_push(push)
    with Counted(f"writing {config.output.name}", 0) as counted:
        with waiting(f"converting {config.input}"):
            digests = _convert(config, counted.advance)
    for name, digest in sorted(digests.items()):
        say(f"{digest}  {config.output / name}")
    if isinstance(config, EqidsToHfConfig) and config.license is None:
        say(f"{config.output / CARD} says license: {UNKNOWN}, see --license")
    if push is not None:
        push_pair(push, say)


def _inspect(config: InspectConfig) -> None:
    check_output(config.json, "--json")
    text, values = inspect(config.path)
    say(text)
    if config.json is not None:
        write_json(config.json, values)
        say(f"written to {config.json}")


def _convert(config: ConversionConfig, advance: Progress) -> Mapping[str, str]:
    match config:
        case GgufToHfConfig():
            return gguf_to_hf(
                config.input,
                config.output,
                dtype=FLOATS[config.dtype],
                max_shard_bytes=config.max_shard_bytes,
                advance=advance,
                report=say_above_bars,
            )
        case HfToHfConfig():
            return hf_to_hf(
                config.input,
                config.output,
                dtype=None if config.dtype is None else FLOATS[config.dtype],
                num_layers=config.num_layers,
                max_shard_bytes=config.max_shard_bytes,
                advance=advance,
            )
        case EqidsToHfConfig():
            return eqids_to_hf(config, advance)
        case EqidsToOnnxConfig():
            return eqids_to_onnx(config, advance)
        case EqidsToStablehloConfig():
            return eqids_to_stablehlo(config, advance)
        case EqidsToOrbaxConfig():
            return eqids_to_orbax(config, advance)
        case OrbaxToEqidsConfig():
            return orbax_to_eqids(config, advance)
        case _:
            assert isinstance(config, ItemsConfig)
            return export_items(config, advance)
