"""Look after checkpoints: `python -m eqids.checkpoint {list,verify,show,export}`."""

from collections.abc import Sequence

from eqids.cli import parse_command, run
from eqids.cli.commands import COMMANDS

DESCRIPTION = """Look after a run's checkpoints, whose folders are DIR/STEP.

    python -m eqids.checkpoint list runs/mine
    python -m eqids.checkpoint verify runs/mine
    python -m eqids.checkpoint show runs/mine/600
    python -m eqids.checkpoint export runs/mine/600 weights.safetensors
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command on a checkpoint or a run's folder."""
    command = COMMANDS["eqids.checkpoint"]
    config = parse_command(
        command.kinds,
        argv,
        "eqids.checkpoint",
        DESCRIPTION,
        positional=command.positional,
    )
    from eqids.checkpoint_folders import answer

    answer(config)


if __name__ == "__main__":
    run(main)
