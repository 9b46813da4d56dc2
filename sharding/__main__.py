"""Layouts: `python -m sharding {list,show,estimate,prove,plan}`."""

import os
from collections.abc import Sequence
from pathlib import Path

from eqids.cli import parse_command, run, say
from eqids.cli.commands import COMMANDS
from eqids.config import ListConfig, MachineConfig, PlanConfig, ProveConfig
from eqids.io.atomic import write_json

DESCRIPTION = """Shows how a mesh of devices splits a model, and whether it fits.

Named layouts exist for model sizes, hardware and what trains; the hardware need not be
here. `estimate` computes memory in a moment; `prove` runs XLA's compiler for the device
(pip install 'eqids[gpu-compile]').

    python -m sharding list
    python -m sharding plan --llama_size 8b --train all --devices 8 --num_items 1000000
    python -m sharding prove --layout 8b-all-h100-80gb-8
    python -m sharding show --llama_size 8b --hardware h100-80gb --devices 8 --train all
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Answers one question about layouts, and writes the answer with --json."""
    command = COMMANDS["sharding"]
    config = parse_command(command.kinds, argv, "sharding", DESCRIPTION)
    _fake_devices(config)
    from eqids.planning import estimates, plan, proofs

    if isinstance(config, ProveConfig) and config.all:
        proofs.prove_all(config.json or Path("layouts.json"), print)
        return
    if isinstance(config, ProveConfig):
        text, values = proofs.answer(config)
    elif isinstance(config, PlanConfig):
        text, values = plan.answer(config)
    else:
        text, values = estimates.answer(config)
    say(text)
    if config.json is not None:
        write_json(config.json, values)
        say(f"written to {config.json}")


def _fake_devices(config: MachineConfig | ListConfig) -> None:
    """Makes jax show 8 CPU devices, as many as named layouts of CPUs have."""
    if isinstance(config, ProveConfig):
        flag = "--xla_force_host_platform_device_count"
        flags = os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {flag}=8".strip()


if __name__ == "__main__":
    run(main)
