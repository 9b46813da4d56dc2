"""Layouts: `python -m sharding {list,show,estimate,prove,plan}`."""

import os
from collections.abc import Sequence

from eqids.cli import loading, parse_command, run
from eqids.cli.commands import COMMANDS
from eqids.config import ProveConfig

DESCRIPTION = """Show where every array lies on a mesh of devices, and whether it fits.

Presets cover model sizes, hardware and what trains; this machine needs none of that
hardware. `estimate` answers in a moment, `prove` compiles with XLA for the device
itself (pip install 'eqids[gpu-compile]').

    python -m sharding list
    python -m sharding plan --llama_size 8b --train all --devices 8 --num_items 1000000
    python -m sharding prove --layout 8b-all-h100-80gb-8
    python -m sharding show --llama_size 8b --hardware h100-80gb --devices 8 --train all
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Answers one question about layouts, and writes the answer with --json."""
    config = parse_command(COMMANDS["sharding"].kinds, argv, "sharding", DESCRIPTION)
    if isinstance(config, ProveConfig):
        _fake_devices()
    # Imported here: the package sharding must not import eqids, and --help does not
    # wait for jax.
    with loading():
        from eqids.planning.answers import give_answer

    give_answer(config)


def _fake_devices() -> None:
    """Makes jax show as many CPU devices as the presets of CPUs have."""
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=8".strip()


if __name__ == "__main__":
    run(main)
