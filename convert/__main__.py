"""Weights in and out: `python -m convert {inspect,gguf-to-hf,hf-to-hf,…}`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from eqids.cli import check_output, parse_command, run, say
from eqids.cli.commands import COMMANDS
from eqids.config import (
    ConversionConfig,
    EqidsToHfConfig,
    GgufToHfConfig,
    HfToHfConfig,
    InspectConfig,
    ItemsConfig,
)
from eqids.io.atomic import write_json

if TYPE_CHECKING:
    from convert.outputs import Advance

DESCRIPTION = """Weights of others for EqIDs, and of EqIDs for others.

    python -m convert inspect SmolLM2-135M-Instruct.Q4_1.gguf
    python -m convert gguf-to-hf SmolLM2-135M-Instruct.Q4_1.gguf llamas/smollm2
    python -m convert hf-to-hf llamas/smollm2 llamas/smollm2-half --dtype bfloat16
    python -m convert eqids-to-hf runs/shop exported/shop
    python -m convert items runs/shop exported/shop-items

Outputs are folders, written under another name, read back and renamed: what is there
is whole. An output that is there already is refused.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Says what a file is, or converts one and prints the SHA-256 of what it wrote."""
    command = COMMANDS["convert"]
    config = parse_command(
        command.kinds, argv, "convert", DESCRIPTION, positional=command.positional
    )
    if isinstance(config, InspectConfig):
        _inspect(config)
        return
    with tqdm(unit="B", unit_scale=True, desc=config.output.name, disable=None) as bar:

        def advance(num_bytes: int, total: int) -> None:
            bar.total = total
            bar.update(num_bytes)

        digests = _convert(config, advance)
    for name, digest in sorted(digests.items()):
        say(f"{digest}  {config.output / name}")


def _inspect(config: InspectConfig) -> None:
    from eqids.export.inspecting import answer

    check_output(config.json, "--json")
    text, values = answer(config.path)
    say(text)
    if config.json is not None:
        write_json(config.json, values)
        say(f"written to {config.json}")


def _convert(config: ConversionConfig, advance: "Advance") -> Mapping[str, str]:
    # Each is imported where it is wanted: `--help` should not wait for jax.
    from convert.outputs import FLOATS

    if isinstance(config, GgufToHfConfig):
        from convert.gguf_llama import gguf_to_hf

        return gguf_to_hf(
            config.input,
            config.output,
            dtype=FLOATS[config.dtype],
            max_shard_bytes=config.max_shard_bytes,
            advance=advance,
            report=tqdm.write,
        )
    if isinstance(config, HfToHfConfig):
        from convert.hf_write import hf_to_hf

        return hf_to_hf(
            config.input,
            config.output,
            dtype=None if config.dtype is None else FLOATS[config.dtype],
            max_shard_bytes=config.max_shard_bytes,
            advance=advance,
        )
    from eqids.export import exporting

    if isinstance(config, EqidsToHfConfig):
        return exporting.eqids_to_hf(config, advance)
    assert isinstance(config, ItemsConfig)
    return exporting.items(config, advance)


if __name__ == "__main__":
    run(main)
