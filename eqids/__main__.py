"""Lists the commands: `python -m eqids`."""

import sys
from collections.abc import Sequence

from eqids.cli import run
from eqids.cli.commands import COMMANDS
from eqids.cli.help_text import asks_for_help, show_version
from eqids.cli.suggest import closest
from eqids.config import UserError

_NAMES = {name.removeprefix("eqids."): name for name in COMMANDS}


def main(argv: Sequence[str]) -> None:
    """Prints the commands; for a command's name, how to run it."""
    if argv and not asks_for_help(argv):
        if argv[0] == "--version":
            show_version()
        near = closest(argv[0], list(_NAMES))
        wanted = f"wanted python -m {_NAMES[near]}" if near else "which takes no words"
        raise UserError(f"{argv[0]!r} is not for python -m eqids, {wanted}")
    print("EqIDs turns a pretrained Llama into a recommender. Its commands:\n")
    for name, command in COMMANDS.items():
        print(f"    {f'python -m {name}':<28}{command.does}")
    print("\nEach has --help.")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
