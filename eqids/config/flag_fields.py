"""Fields of configs with what --help needs to know: groups, and switches that are
on."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

Value = TypeVar("Value")

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "model": "The model, and which part of it trains.",
        "source": "Where interactions come from, and where the dataset goes.",
        "columns": "How the tables of interactions and items are read.",
        "data": "What the model reads.",
        "catalog and clusters": "Which items there are, and how they are clustered.",
        "optimisation": "How the model learns.",
        "checkpoints": "What is logged, evaluated, saved and loaded.",
        "devices": "What the computation runs on.",
        "server": "Where the server listens, and what it reads and writes.",
        "limits": "What requests may cost.",
        "measurement": "How times are taken, and where results go.",
        "engine": "What reads and sorts the events.",
        "expert": "Rarely needed.",
    }
)
"""The groups of flags in --help, in their order, with a sentence each."""


def grouped(
    group: str,
    default: Value | None = None,
    *,
    factory: Callable[[], Value] | None = None,
) -> Value:
    """Returns a field whose flag --help shows in a group.

    Args:
        group: a name in `GROUPS`.
        default: the field's default.
        factory: makes the default, in place of `default`.
    """
    metadata = {"group": group}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)  # type: ignore[return-value]


def on_unless(
    negation: str, group: str | None = None, default: bool | None = True
) -> Any:
    """Returns a field that is on by default, with the help of the flag against it.

    Args:
        negation: what `--no_NAME` does.
        group: a name in `GROUPS`, if --help shows the flag in a group.
        default: True; or None, if on by default differs from on because it is given.
    """
    metadata = {"negation": negation, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


def group_of(field: "dataclasses.Field[Any]") -> str | None:
    """Returns the group of a field's flag, if it has one."""
    return field.metadata.get("group")


def negation_of(field: "dataclasses.Field[Any]") -> str | None:
    """Returns what `--no_NAME` does, if the field is on by default."""
    return field.metadata.get("negation")
