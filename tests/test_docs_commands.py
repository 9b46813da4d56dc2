"""Every command on the pages is one that the program accepts."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from doc_pages import PAGES

from eqids.cli.command_line import read, read_command
from eqids.cli.commands import COMMANDS
from eqids.config import UserError

_NEEDS_FILES = ("is not a folder that exists", "is not a file that exists")
"""What configs say of files that only the reader has."""


def commands(path: Path) -> Iterator[str]:
    """Yields the commands of a page's blocks, each on one line."""
    text = re.sub(r" *\\\n\s*", " ", path.read_text())
    for line in re.findall(r"^ *(?:\w+=\S+ )*((?:srun )?python -m .+)$", text, re.M):
        # Comments, output that is shown beside it, and words that vary.
        typed = re.split(r"\s#|\s&&|\s\||\s>", line)[0].removeprefix("srun ")
        if "..." not in typed and "…" not in typed:
            yield typed


def refusal(typed: str) -> str | None:
    """Returns what the program says against a command, or None if it accepts it."""
    _, _, module, *words = shlex.split(typed)
    if module not in COMMANDS or module == "bench" or not words or words == ["--help"]:
        return None  # of other packages, or of the bench, whose sections have own flags
    command = COMMANDS[module]
    try:
        if list(command.kinds) == [""]:
            read(command.kinds[""], words, module, positional=command.positional)
        else:
            read_command(command.kinds, words, module, positional=command.positional)
    except UserError as error:
        said = str(error)
        return None if any(one in said for one in _NEEDS_FILES) else said
    return None


def test_commands_of_the_pages_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    every = [(path.name, typed) for path in PAGES for typed in commands(path)]
    assert len(every) > 80
    wrong = [(page, typed, said) for page, typed in every if (said := refusal(typed))]
    assert not wrong, wrong


def test_a_wrong_command_is_found() -> None:
    assert "--lr" in str(refusal("python -m eqids.train --lr 3"))
