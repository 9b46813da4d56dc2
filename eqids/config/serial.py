"""Configs as JSON, and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from eqids.config.errors import require

Parsed = TypeVar("Parsed")


def to_json(config: Any) -> Any:
    """Returns a config as JSON values.

    Dataclasses become objects, tuples lists and paths strings.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = dataclasses.fields(config)
        return {f.name: to_json(getattr(config, f.name)) for f in fields}
    if isinstance(config, tuple):
        return [to_json(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def from_json(kind: type[Parsed], values: Mapping[str, Any], where: str) -> Parsed:
    """Returns the config that `to_json` turned into these values.

    Args:
        kind: the dataclass to build.
        values: its fields.
        where: the file and object that `values` come from, for messages.

    Raises:
        UserError: a field is unknown or missing.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        require(name in fields, f"{where}: unknown field {name!r}")
    hints = typing.get_type_hints(kind)
    given = {n: _from_json(hints[n], v, f"{where}.{n}") for n, v in values.items()}
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        require(name in given or optional, f"{where}: no field {name!r}")
    return kind(**given)


def _from_json(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_json(option, value, where)  # type: ignore[arg-type]
        if option is Path and isinstance(value, str):
            return Path(value)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(value)
    return value
