"""Reads a command line into a config, and answers each mistake with one sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from eqids.cli.flags import Flag, build, flags_of
from eqids.cli.suggest import answer, closest
from eqids.config import UserError, require

Settings = TypeVar("Settings")

_DASHES = "\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
"""Hyphens, and the dashes that word processors turn them into; for a character
class."""
_FLAG = re.compile(r"--?(?!(inf|infinity|nan)$)[a-z][^\s=]*(=.*)?", re.I | re.DOTALL)
"""A word that names a flag; not -7 and -inf, which are numbers, nor '--a text'."""


@dataclass
class _Words:
    """A command line while it is being read.

    Attributes:
        command: what the user typed, `python -m eqids.catalog add`.
        flags: the command's flags by name, positional ones in their order.
        given: by the field's name, the values of each time that its flag was given.
        places: the words that belong to no flag: positional values.
    """

    command: str
    flags: Mapping[str, Flag]
    given: dict[str, list[list[str]]] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    @property
    def positional(self) -> list[Flag]:
        return [flag for flag in self.flags.values() if flag.positional]


def read(
    kind: type[Settings],
    argv: Sequence[str],
    command: str,
    *,
    positional: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Reads the words of a command line into a config.

    Flags may be spelled with dashes or underscores. A value is the next word, or
    follows `=`. Words after `--` are positional.

    Args:
        kind: the config's class, whose fields are the flags.
        argv: the words after the command.
        command: what the user typed, for messages.
        positional: whether required fields are positional.
        defaults: defaults of fields, in place of the class's.

    Raises:
        UserError: a flag is unknown or given twice, a value is wrong or missing, or the
            config itself refuses one.
    """
    flags = {flag.name: flag for flag in flags_of(kind, positional)}
    words = _Words(command, flags)
    _collect(words, list(argv))
    _check_once(words)
    _check_complete(words)
    values = {
        flag.field: flag.read(words.given[flag.field][0])
        for flag in flags.values()
        if flag.field in words.given
    }
    return build(kind, {**(defaults or {}), **values})


def read_command(
    kinds: Mapping[str, type[Settings]],
    argv: Sequence[str],
    command: str,
    *,
    positional: bool = False,
) -> Settings:
    """Reads a subcommand and its flags; see `read`.

    Args:
        kinds: by the subcommand's name, the config's class.
        argv: the words after the command.
        command: what the user typed before them, for messages.
        positional: whether required fields are positional.
    """
    names = ", ".join(kinds)
    require(len(argv) > 0, f"{command} needs a command: one of {names}")
    first, *others = argv
    require(
        not first.startswith("-"),
        f"{first} needs a command before it: {command} with one of {names}",
    )
    name = first if first in kinds else first.replace("_", "-")
    if name not in kinds:
        near = closest(first, list(kinds))
        meant = f"; did you mean {near}?" if near else ""
        raise UserError(
            f"{first!r} is not a command of {command}, wanted one of {names}{meant}"
        )
    return read(kinds[name], others, f"{command} {name}", positional=positional)


def _collect(words: _Words, rest: list[str]) -> None:
    """Sorts the words into flags with their values and positional values."""
    while rest:
        word = rest.pop(0)
        if word == "--":
            words.places += rest
            return
        if not _FLAG.fullmatch(word):
            _check_dashes(words, word)
            words.places.append(word)
            continue
        spelled, equals, value = word.partition("=")
        flag, on = _named(words, spelled)
        if on is not None and equals:
            _refuse_value(spelled, value)
        taken = [value] if equals else _taken(flag, spelled, on, rest)
        words.given.setdefault(flag.field, []).append(taken)


def _check_dashes(words: _Words, word: str) -> None:
    """Refuses a flag that begins with a word processor's dashes, or with too many."""
    name = re.fullmatch(rf"[{_DASHES}]+([a-z][^\s=]*)(=.*)?", word, re.I | re.DOTALL)
    if name is None or word.startswith("-") and not word.startswith("---"):
        return
    flag = f"--{name[1].replace('-', '_')}"
    names = {n for one in words.flags.values() for n in (one.name, one.opposite)}
    if flag in names:
        dashes = word[: name.start(1)]
        raise UserError(
            f"{word!r} begins with {dashes!r}, wanted two hyphens: --{name[1]}"
        )


def _named(words: _Words, spelled: str) -> tuple[Flag, bool | None]:
    """Returns the flag of a spelling, and the value that it sets if it is a switch.

    Dashes count as underscores. A switch can also be set to its default, which undoes
    what a run takes over from another run.
    """
    name = "--" + spelled[2:].replace("-", "_") if spelled[:2] == "--" else spelled
    flag = words.flags.get(name)
    if flag is not None and not flag.positional:
        return flag, flag.switch
    # --no_freeze_llama would have no effect: a pretrained Llama is frozen by default.
    for flag in words.flags.values():
        if flag.switch is not None and flag.opposite == name != "--no_freeze_llama":
            return flag, not flag.switch
    raise UserError(answer(spelled, words.command, tuple(words.flags.values())))


def _taken(flag: Flag, spelled: str, on: bool | None, rest: list[str]) -> list[str]:
    """Takes a flag's values off the words that follow it."""
    if on is not None:
        if rest and rest[0].lower() in ("true", "false", "yes", "no", "on", "off"):
            _refuse_value(spelled, rest[0])
        return [str(on)]
    taken = []
    while rest and not _FLAG.fullmatch(rest[0]) and rest[0] != "--":
        taken.append(rest.pop(0))
        if not flag.several:
            break
    if not taken and not flag.several:
        after = ""
        if rest and rest[0] != "--":
            after = f"; if {rest[0]} is the value, write {flag.name}={rest[0]}"
        raise UserError(f"{flag.name} has no value, wanted {flag.wanted}{after}")
    return taken


def _refuse_value(spelled: str, value: str) -> NoReturn:
    raise UserError(
        f"{spelled} takes no value and {value!r} is given, wanted the flag alone, or "
        "no flag for the default"
    )


def _check_once(words: _Words) -> None:
    """Refuses a flag that is given more than once: all values but one would be lost."""
    for flag in words.flags.values():
        times = words.given.get(flag.field, [])
        if len(times) < 2:
            continue
        often = "twice" if len(times) == 2 else f"{len(times)} times"
        values = ", ".join(" ".join(taken) for taken in times)
        shown = "" if flag.switch is not None else f" ({values})"
        once = f"once with all values: {flag.name} A B" if flag.several else "once"
        raise UserError(f"{flag.name} is given {often}{shown}, wanted {once}")


def _check_complete(words: _Words) -> None:
    """Assigns positional values, and refuses values that are missing or too many."""
    places = words.positional
    several = bool(places) and places[-1].several
    if len(words.places) > len(places) and not several:
        _refuse_stray(words, words.places[len(places)])
    for at, (flag, word) in enumerate(zip(places, words.places, strict=False)):
        words.given[flag.field] = [words.places[at:] if flag.several else [word]]
    missing = [
        flag.name for flag in words.flags.values()
        if flag.required and flag.field not in words.given
    ]  # fmt: skip
    require(
        not missing,
        f"{words.command} needs {' and '.join(missing)}, see {words.command} --help",
    )


def _refuse_stray(words: _Words, word: str) -> NoReturn:
    """Refuses a word that belongs to no flag."""
    wanted = " ".join(flag.name for flag in words.positional)
    require(
        word != "",
        f"{words.command} got an empty word ('') that belongs to no flag, wanted a "
        "value in it (is a variable of the shell empty?), or no quotes",
    )
    if wanted:
        raise UserError(
            f"{word!r} is one word too many, wanted {words.command} {wanted}"
        )
    name = "data_dir" if (Path(word) / "dataset.json").exists() else "checkpoint"
    known = any(flag.field == name for flag in words.flags.values())
    meant = f"--{name}" if known and Path(word).is_dir() else "--FLAG"
    raise UserError(
        f"{word!r} belongs to no flag, wanted {meant} {word}, or quotes around a value "
        f"with spaces; {words.command} --help lists the flags"
    )
