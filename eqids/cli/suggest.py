"""Messages about flags that a command does not have."""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence

from eqids.cli.commands import COMMANDS
from eqids.cli.flags import Flag, flags_of
from eqids.cli.synonyms import SYNONYMS


def answer(spelled: str, command: str, flags: Sequence[Flag]) -> str:
    """Returns one sentence about a flag that a command does not have.

    It names the flag that was probably meant: one with a similar spelling, one with the
    same meaning (see `SYNONYMS`), or one of another command.

    Args:
        spelled: what the user typed, dashes included.
        command: the command, `python -m eqids.train`.
        flags: the flags that the command has.
    """
    name = _plain(spelled)
    start = f"{spelled} is not a flag of {command}"
    by_name = {_typed(flag): flag for flag in flags}
    same = [one for one in by_name if _letters(one) == _letters(name)]
    meant = same[0] if same else _synonym(name, list(by_name))
    near = None if meant else closest(name, list(by_name))
    for found in (meant, near):
        if found in by_name and by_name[found].positional:
            places = " ".join(flag.name for flag in flags if flag.positional)
            return f"{start}, wanted the value without a flag: {command} {places}"
    if meant is not None:
        return start + _clause(meant)
    if near is not None and _singular(near) == _singular(name):
        return f"{start}; did you mean {near}?"
    for other, others in _flags_by_command().items():
        if f"--{name}" in others:
            return f"{start}, but python -m {other} has --{name}"
    if near is not None:
        return f"{start}; did you mean {near}?"
    for other, others in _flags_by_command().items():
        found = _synonym(name, others)
        ours = re.match(r"(?:wanted )?(--[a-z0-9_]+)", found or "")
        if ours:
            return f"{start}, but python -m {other} has {ours[1]}"
    return f"{start}, see {command} --help"


def closest(word: str, names: Sequence[str]) -> str | None:
    """Returns the name that a word abbreviates or misspells, if there is one."""
    by_letters = {_letters(name): name for name in names}
    letters = _letters(word)
    begun = [name for short, name in by_letters.items() if short.startswith(letters)]
    if len(begun) == 1 and len(letters) > 1:
        return begun[0]
    near = difflib.get_close_matches(letters, by_letters, n=1, cutoff=0.75)
    return by_letters[near[0]] if near else None


def _synonym(name: str, flags: Sequence[str]) -> str | None:
    """Returns the first answer to another software's name that fits these flags."""
    fitting = (row for row in SYNONYMS if name in row.names)
    return next((row.answer for row in fitting if row.needs <= set(flags)), None)


def _clause(meant: str) -> str:
    if meant.startswith("--"):
        return f", wanted {meant}"
    return f", {meant}" if meant.startswith("wanted") else f"; {meant}"


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
    """Returns how people would type a flag, positional ones included."""
    return f"--{flag.field}" if flag.positional else flag.name


def _plain(spelled: str) -> str:
    return spelled.lstrip("-").replace("-", "_").lower()


def _singular(text: str) -> str:
    return _letters(text).removesuffix("s")


def _letters(text: str) -> str:
    return text.replace("-", "").replace("_", "").lower()
