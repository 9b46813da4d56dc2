"""Answers a command line with a config, help or the version."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqids.cli.accelerators import choose_platform
from eqids.cli.command_line import Settings, read, read_command
from eqids.cli.help_text import asks_for_help, show_help, show_version
from eqids.config import require


def parse(
    kind: type[Settings],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
    *,
    positional: bool = False,
) -> Settings:
    """Reads flags into a config, before any slow import.

    Args:
        kind: the config's class, whose fields are the flags.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        defaults: defaults of flags by name, in place of the class's.
        positional: whether required fields are positional.

    Raises:
        UserError: a flag is unknown, repeated or contradictory, or a value is wrong.
    """
    command, words = f"python -m {module}", _words(argv)
    _answer_questions({"": kind}, words, command, description, positional)
    config = read(kind, words, command, positional=positional, defaults=defaults)
    choose_platform(config)
    return config


def parse_command(
    kinds: Mapping[str, type[Settings]],
    argv: Sequence[str] | None,
    module: str,
    description: str,
    *,
    positional: bool = False,
) -> Settings:
    """Reads a command and its flags; see `parse`.

    Args:
        kinds: by the command's name, the config's class.
        argv: the words of the command line, by default the process's own.
        module: what the user typed after `python -m`.
        description: the first text of `--help`.
        positional: whether required fields are positional.

    Raises:
        UserError: the command is unknown; a flag is unknown, repeated or contradictory;
            or a value is wrong.
    """
    command, words = f"python -m {module}", _words(argv)
    _answer_questions(kinds, words, command, description, positional)
    config = read_command(kinds, words, command, positional=positional)
    choose_platform(config)
    return config


def _words(argv: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if argv is None else argv


def _answer_questions(
    kinds: Mapping[str, type[Any]],
    words: Sequence[str],
    command: str,
    description: str,
    positional: bool,
) -> None:
    """Prints help or the version, if the words ask for them, and exits."""
    if asks_for_help(words):
        show_help(kinds, words, command, description, positional)
    if any(word in ("--version", "-V") for word in words):
        show_version()


def check_output(path: Path | None, flag: str, overwrite: bool = True) -> None:
    """Requires that a file can be written, before any slow work.

    Args:
        path: the file, or None if none will be written.
        flag: the flag that names the file.
        overwrite: whether an existing file is replaced.

    Raises:
        UserError: the path is a folder, or an existing file that is not to be replaced;
            or its folder does not exist or is not writable.
    """
    if path is None:
        return
    require(
        overwrite or path.is_dir() or not path.exists(),
        f"{flag} {path} exists already: add --overwrite to replace it, or choose "
        f"another {flag}",
    )
    require(not path.is_dir(), f"{flag} {path} is a folder, wanted a file to write")
    folder = path.parent
    require(
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        f"{flag} {path} cannot be written: {folder} is not a folder that exists and "
        "can be written to",
    )
