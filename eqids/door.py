"""What every door shares: reading flags, and ending at a mistake of the user."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from eqids.config import UserError

Config = TypeVar("Config")


def parse(
    kind: type[Config], argv: Sequence[str] | None, module: str, description: str
) -> Config:
    """Reads flags into a config; help and mistakes are told in the terminal.

    Args:
        kind: the config's class, whose fields are the flags.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
    """
    return tyro.cli(
        kind,
        args=argv,
        prog=f"python -m {module}",
        description=description,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def run(main: Callable[[], None]) -> None:
    """Runs a door's `main`: a user's mistake is one sentence and exit code 2.

    Interrupted, it exits with 130, as shells expect; anything else is a fault of
    ours and stays a traceback.
    """
    try:
        main()
    except ValueError as error:
        if not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_users(error: ValueError) -> bool:
    # Doors that shard nothing should not pay for importing jax.
    sharding = sys.modules.get("sharding")
    return isinstance(error, UserError) or (
        sharding is not None and isinstance(error, sharding.LayoutError)
    )
