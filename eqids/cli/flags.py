"""The flags of a config: how each field is spelled, and how its value is read."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eqids.config import negation_of, require

_WANTED = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}


@dataclass(frozen=True)
class Flag:
    """One field of a config as a flag.

    Attributes:
        field: the name of the field.
        kind: the type of a value: bool, int, float, str, Path or a Literal.
        optional: whether the word `None` is a legal value too.
        several: whether it takes several values.
        required: whether it has no default.
        positional: whether its value is given without its name.
        switch: what a flag without a value sets, or None if it takes a value.
        declared: the field itself, with its default, group and negation.
        hint: the type of the field.
    """

    field: str
    kind: Any
    optional: bool = False
    several: bool = False
    required: bool = False
    positional: bool = False
    switch: bool | None = None
    declared: Any = dataclasses.field(default=None, compare=False)
    hint: Any = None

    @property
    def name(self) -> str:
        """Its spelling: `--seed`, `--no_tied_items`, `INPUT`."""
        if self.positional:
            return self.field.upper()
        return f"--no_{self.field}" if self.switch is False else f"--{self.field}"

    @property
    def opposite(self) -> str:
        """The spelling that sets a switch to its default, which --help leaves out."""
        return f"--{self.field}" if self.switch is False else f"--no_{self.field}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The legal values, or none if every value of the type is legal."""
        if typing.get_origin(self.kind) is Literal:
            named = tuple(map(str, typing.get_args(self.kind)))
        else:
            named = ("True", "False") if self.kind is bool else ()
        return (*named, "None") if named and self.optional else named

    @property
    def wanted(self) -> str:
        """What a value must be, for messages."""
        if self.choices:
            named = ", ".join(self.choices)
            several = f"some of {named}, with spaces between"
            return several if self.several else f"one of {named}"
        return _WANTED[self.kind]

    def read(self, texts: Sequence[str]) -> Any:
        """Reads the values that were given.

        Args:
            texts: the words of the command line; exactly one unless `several`. For a
                switch, the value that it is set to.

        Raises:
            UserError: a word is no value of this flag.
        """
        if self.switch is not None:
            return texts[0] == str(True)
        values = tuple(self._one(text) for text in texts)
        return values if self.several else values[0]

    def _one(self, text: str) -> Any:
        if self.optional and text == "None":
            return None
        if self.choices:
            require(text in self.choices, f"{self._is(text)}, wanted {self.wanted}")
            return text == "True" if self.kind is bool else text
        if self.kind is Path:
            require(text != "", f"{self.name} is empty, wanted a path")
        require(
            text.encode(errors="replace").decode() == text,
            f"{self._is(text)}, which is not UTF-8; wanted another name, or "
            "PYTHONUTF8=1 in the environment if the terminal's names are UTF-8",
        )
        try:
            # Python reads the digits of every script.
            number = self.kind in (int, float)
            value = None if number and not text.isascii() else self.kind(text)
        except ValueError:
            value = None
        # A NaN differs from itself.
        right = value is not None and value == value
        require(right, f"{self._is(text)}, wanted {self.wanted}{self._spelled(text)}")
        return value

    def _is(self, text: str) -> str:
        return f"{self.name} is {text!r}"

    def _spelled(self, text: str) -> str:
        """Returns how to write a whole number that was written as 1e6 or 5.0."""
        try:
            number = float(text)
        except ValueError:
            return ""
        whole = self.kind is int and number.is_integer()
        return f", written {int(number)}" if whole else ""


def flags_of(kind: type[Any], positional: bool = False) -> tuple[Flag, ...]:
    """Returns the flags of a config's class, in the order of its fields.

    Args:
        kind: a dataclass; of a field that is one, the flags are those of its fields.
        positional: whether required fields are positional.

    Raises:
        TypeError: a field has a type that no flag can have.
    """
    hints = typing.get_type_hints(kind)
    found: list[Flag] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += flags_of(typing.cast(type, hint))
        else:
            found.append(_flag(field, hint, positional))
    names = [flag.field for flag in found]
    if len(names) != len(set(names)):
        raise TypeError(f"{kind.__name__} has two fields of the same name: {names}")
    return tuple(found)


def build(kind: type[Any], values: dict[str, Any]) -> Any:
    """Returns a config with these values, and defaults for the other fields.

    Args:
        kind: a dataclass; fields that are dataclasses are built from the same values.
        values: by the field's name.

    Raises:
        UserError: the config refuses a value.
    """
    hints, given = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            given[field.name] = build(typing.cast(type, hint), values)
        elif field.name in values:
            given[field.name] = values[field.name]
    return kind(**given)


def _flag(field: "dataclasses.Field[Any]", hint: Any, positional: bool) -> Flag:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    parts = list(typing.get_args(hint)) if union else [hint]
    on_by_default = negation_of(field) is not None
    optional = types.NoneType in parts and not on_by_default
    parts = [part for part in parts if part is not types.NoneType]
    several = typing.get_origin(parts[0]) is tuple
    kind = typing.get_args(parts[0])[0] if several else parts[0]
    legal = kind is bool or kind in _WANTED or typing.get_origin(kind) is Literal
    if len(parts) != 1 or not legal:
        raise TypeError(f"{field.name} is {hint}, wanted a type that a flag can have")
    required = (
        field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    default = on_by_default or field.default
    return Flag(
        field=field.name,
        kind=kind,
        optional=optional,
        several=several,
        required=required,
        positional=positional and required,
        switch=None if kind is not bool or optional else not default,
        declared=field,
        hint=hint,
    )
