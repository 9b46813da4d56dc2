"""Answers to flags that a command does not have."""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence

from eqids.cli.commands import COMMANDS
from eqids.cli.flags import Flag, flags_of
from eqids.cli.synonyms import SYNONYMS


def answer(spelled: str, command: str, flags: Sequence[Flag]) -> str:
    """Returns one sentence about a flag that a command does not have.

    It names the flag that was meant: one of another spelling, one with the same
    meaning (see `SYNONYMS`), or that of another command.

    Args:
        spelled: what the user typed, dashes included.
        command: the command, `python -m eqids.train`.
        flags: those that it has.
    """
    name = _plain(spelled)
    start = f"{spelled} is not a flag of {command}"
    by_name = {_typed(flag): flag for flag in flags}
    same = [one for one in by_name if _letters(one) == _letters(name)]
    known = same[0] if same else _known(name, list(by_name))
    near = None if known else closest(name, list(by_name))
    for found in (known, near):
        if found in by_name and by_name[found].positional:
            places = " ".join(flag.name for flag in flags if flag.positional)
            return f"{start}, wanted the value by its place: {command} {places}"
    if known is not None:
        return start + _clause(known)
    for other, others in _flags_by_command().items():
        if f"--{name}" in others:
            return f"{start}, but python -m {other} has --{name}"
    if near is not None:
        return f"{start}; did you mean {near}?"
    for other, others in _flags_by_command().items():
        found = _known(name, others)
        ours = re.match(r"(?:wanted )?(--[a-z0-9_]+)", found or "")
        if ours:
            return f"{start}, but python -m {other} has {ours[1]}"
    return f"{start}, see {command} --help"


def closest(word: str, names: Sequence[str]) -> str | None:
    """Returns the name that a word abbreviates or nearly spells, if there is one."""
    by_letters = {_letters(name): name for name in names}
    letters = _letters(word)
    begun = [name for short, name in by_letters.items() if short.startswith(letters)]
    if len(begun) == 1 and len(letters) > 1:
        return begun[0]
    near = difflib.get_close_matches(letters, by_letters, n=1, cutoff=0.75)
    return by_letters[near[0]] if near else None


def _known(name: str, flags: Sequence[str]) -> str | None:
    """Returns the first answer to a name of other software that these flags allow."""
    fitting = (row for row in SYNONYMS if name in row.names)
    return next((row.answer for row in fitting if row.needs <= set(flags)), None)


def _clause(known: str) -> str:
    if known.startswith("--"):
        return f", wanted {known}"
    return f", {known}" if known.startswith("wanted") else f"; {known}"


@functools.cache
def _flags_by_command() -> Mapping[str, list[str]]:
    found = {}
    for module, one in COMMANDS.items():
        for name, kind in one.kinds.items():
            flags = flags_of(kind, one.positional)
            names = [flag.name for flag in flags if not flag.positional]
            found[f"{module} {name}".strip()] = names
    return found


def _typed(flag: Flag) -> str:
    """Returns how people type a flag, also one that has a place instead."""
    return f"--{flag.field}" if flag.positional else flag.name


def _plain(spelled: str) -> str:
    return spelled.lstrip("-").replace("-", "_").lower()


def _letters(text: str) -> str:
    return text.replace("-", "").replace("_", "").lower()
