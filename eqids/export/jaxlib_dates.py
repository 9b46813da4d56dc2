"""Until when jax promises to read what it exports."""

import calendar
from collections.abc import Mapping
from datetime import date
from types import MappingProxyType

from eqids.config import UserError

GUARANTEE = (
    "jax compiles and runs an exported program with a jaxlib that was released up to 6 "
    "months after the one that exported it, or up to 3 weeks before "
    "(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees)"
)
"""What jax promises; the dates are those of releases of jaxlib."""

_RELEASED: Mapping[str, str] = MappingProxyType(
    {
        "0.10.0": "2026-04-16",
        "0.10.1": "2026-05-20",
        "0.10.2": "2026-06-17",
        "0.11.0": "2026-07-16",
        "0.11.1": "2026-08-17",
        "0.11.2": "2026-09-17",
        "0.12.0": "2026-10-19",
        "0.12.0.1": "2026-10-21",
    }
)
"""When versions of jaxlib were released (https://pypi.org/project/jaxlib/#history)."""


def released(version: str, given: str | None = None) -> date:
    """Returns the date of a release of jaxlib.

    Args:
        version: of jaxlib.
        given: the date that a flag gives.

    Raises:
        UserError: the date is not known, or the given one is no date.
    """
    text = given or _RELEASED.get(version)
    if text is None:
        raise UserError(
            f"jaxlib is {version}, whose date EqIDs does not know, wanted "
            "--jaxlib_released YYYY-MM-DD, from https://pypi.org/project/jaxlib/#history"
        )
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"--jaxlib_released is {text!r}, wanted a date such as 2026-06-17"
        ) from error


def six_months_after(start: date) -> date:
    """Returns the same day six months later, or the last day of that month."""
    months = start.month + 5
    year, month = start.year + months // 12, months % 12 + 1
    return date(year, month, min(start.day, calendar.monthrange(year, month)[1]))
