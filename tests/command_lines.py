"""Every command of the project, with its config and its main."""

import importlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from bench.sections import OTHER_COMMANDS, SECTIONS
from eqids.cli.commands import COMMANDS
from eqids.config import UserError


@dataclass(frozen=True)
class Typed:
    """One command or subcommand.

    Attributes:
        module: what is typed after `python -m`.
        tokens: the subcommand, or nothing.
        kind: the class of its config.
        positional: whether required fields are positional.
    """

    module: str
    tokens: tuple[str, ...]
    kind: type[Any]
    positional: bool

    @property
    def text(self) -> str:
        return " ".join((self.module, *self.tokens))

    def main(self, *flags: str) -> None:
        """Runs the command's own main."""
        name = self.module if "." in self.module else f"{self.module}.__main__"
        main: Callable[[list[str]], None] = importlib.import_module(name).main
        main([*self.tokens, *flags])

    def refusal(self, *flags: str) -> str:
        """Returns the one sentence with which it refuses flags."""
        with pytest.raises(UserError) as error:
            self.main(*flags)
        said = str(error.value)
        assert "\n" not in said
        return said

    def help(self) -> str:
        """Returns what --help prints."""
        shown = io.StringIO()
        with redirect_stdout(shown), pytest.raises(SystemExit) as exit_:
            self.main("--help")
        assert exit_.value.code == 0
        return shown.getvalue()


def _all() -> list[Typed]:
    found = []
    for module, command in COMMANDS.items():
        for name, kind in command.kinds.items():
            tokens = (name,) if name else ()
            found.append(Typed(module, tokens, kind, command.positional))
    kinds: dict[str, type[Any]] = {
        name: entry.options for name, entry in SECTIONS.items()
    }
    kinds |= OTHER_COMMANDS
    return found + [Typed("bench", (name,), kind, True) for name, kind in kinds.items()]


EVERY = _all()
MODULES = ["eqids", *COMMANDS]
