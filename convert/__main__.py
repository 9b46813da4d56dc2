"""The command `python -m convert {inspect,gguf-to-hf,hf-to-hf,eqids-to-hf,…}`."""

from collections.abc import Sequence

from eqids.cli import loading, parse_command, run_as_process
from eqids.cli.commands import COMMANDS

DESCRIPTION = """Convert weights of others for EqIDs, and of EqIDs for others.

    python -m convert inspect SmolLM2-135M-Instruct.Q4_1.gguf
    python -m convert gguf-to-hf SmolLM2-135M-Instruct.Q4_1.gguf llamas/smollm2
    python -m convert hf-to-hf llamas/smollm2 llamas/smollm2-half --dtype bfloat16
    python -m convert eqids-to-hf runs/shop exported/shop
    python -m convert eqids-to-onnx runs/shop exported/shop-onnx
    python -m convert eqids-to-stablehlo runs/shop exported/shop-jax
    python -m convert eqids-to-orbax runs/shop exported/shop-orbax
    python -m convert orbax-to-eqids exported/shop-orbax runs/shop-again
    python -m convert items runs/shop exported/shop-items
    python -m convert push exported/shop ORG/NAME --private

Outputs are folders. Each is written under a temporary name, read back, compared and
renamed: a folder with its own name is complete. An existing output is an error;
eqids-to-onnx and eqids-to-stablehlo replace their own, with --overwrite.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Inspects a file or folder, or converts it."""
    command = COMMANDS["convert"]
    config = parse_command(
        command.kinds, argv, "convert", DESCRIPTION, positional=command.positional
    )
    # Late, and from a higher level: commands below read their flags before they import
    # what answers them.
    with loading():
        from eqids.export.conversions import run_conversion

    run_conversion(config)


if __name__ == "__main__":
    run_as_process(main)
