"""Lists and runs the commands: `eqids`, or `python -m eqids`."""

import importlib
import sys
from collections.abc import Sequence

from eqids.cli import run_as_process
from eqids.cli.commands import COMMANDS
from eqids.cli.help_text import asks_for_help, show_version
from eqids.cli.suggest import closest
from eqids.config import UserError

_NAMES = {name.removeprefix("eqids."): name for name in COMMANDS}


def main(argv: Sequence[str]) -> None:
    """Prints the commands, or runs the one that `argv` begins with."""
    if argv and argv[0] in _NAMES:
        name = _NAMES[argv[0]]
        module = name if name.startswith("eqids.") else f"{name}.__main__"
        importlib.import_module(module).main(argv[1:])
        return
    if argv and not asks_for_help(argv):
        if argv[0] == "--version":
            show_version()
        near = closest(argv[0], list(_NAMES))
        wanted = near or f"one of {', '.join(_NAMES)}"
        raise UserError(f"{argv[0]!r} is no command of eqids, wanted {wanted}")
    print("EqIDs turns a pretrained Llama into a recommender. Its commands:\n")
    for name, command in COMMANDS.items():
        print(f"    {f'python -m {name}':<28}{command.does}")
    print("\nEach has --help. `eqids train` is short for `python -m eqids.train`.")


def console() -> None:
    """Runs the console script `eqids`."""
    run_as_process(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    console()
