"""Switches that are on unless a flag turns them off."""

import dataclasses
from typing import Any

_KEY = "negation"


def on_unless(negation: str) -> Any:
    """Returns a field that is True by default, and the help of the flag against it.

    Args:
        negation: what `--no_NAME` does, for --help.
    """
    return dataclasses.field(default=True, metadata={_KEY: negation})


def negation_of(field: "dataclasses.Field[Any]") -> str | None:
    """Returns what `--no_NAME` does, where a field says so."""
    return field.metadata.get(_KEY)
