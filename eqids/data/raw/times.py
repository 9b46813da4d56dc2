"""Finds the unit of times that are numbers, and shows times as dates."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eqids.config import TimeUnit, require

SECONDS: Mapping[TimeUnit, Fraction] = {
    "days": Fraction(86_400),
    "hours": Fraction(3_600),
    "minutes": Fraction(60),
    "seconds": Fraction(1),
    "milliseconds": Fraction(1, 10**3),
    "microseconds": Fraction(1, 10**6),
    "nanoseconds": Fraction(1, 10**9),
}
"""Seconds in each unit, which counts from 1970-01-01 00:00:00 UTC."""

TIMES_WANTED = (
    "wanted numbers (unix seconds), dates, timestamps, or text like "
    "2024-05-01 12:30:00 or 2024-05-01T12:30:00Z"
)
"""Ends messages about a value that is no time."""


def _start_of(year: int) -> int:
    return int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp())


YEAR_1971, YEAR_2100 = _start_of(1971), _start_of(2100)
_COARSE = (_start_of(1990), _start_of(2050))
_FINE = (YEAR_1971, YEAR_2100)
_PLAUSIBLE: Mapping[TimeUnit, tuple[int, int]] = {
    "days": _COARSE,
    "hours": _COARSE,
    "minutes": _COARSE,
    "milliseconds": _FINE,
    "microseconds": _FINE,
    "nanoseconds": _FINE,
}
"""The plausible range of times in a unit. Small numbers may also be ranks or counters,
so the ranges of coarse units are shorter; no two ranges overlap."""


@dataclass(frozen=True)
class InferredUnit:
    """The unit that times are assumed to have."""

    unit: TimeUnit
    """The unit."""
    why: str = ""
    """Why the unit is not seconds, or why the times are implausible; empty if seconds
    fit."""
    fits: bool = True
    """Whether the times are plausible in the unit."""


def unit_of(least: int | float, most: int | float) -> InferredUnit:
    """Returns the most plausible unit of times.

    The unit is seconds, unless all times would be before 1971 or after 2100 and all are
    plausible in another unit.

    Args:
        least: the smallest of them.
        most: the largest of them.
    """
    if most >= YEAR_1971 and least < YEAR_2100:
        return InferredUnit("seconds")
    when = "after 2100" if least >= YEAR_2100 else "before 1971"
    for unit, (earliest, latest) in _PLAUSIBLE.items():
        first, last = least * SECONDS[unit], most * SECONDS[unit]
        if earliest <= first and last < latest:
            why = f"as seconds all of them are {when}, as {unit} they are from " + span(
                int(first), int(last)
            )
            return InferredUnit(unit, why)
    return InferredUnit("seconds", f"as seconds all of them are {when}", fits=False)


FORMATS = ("YYYYmm", "YYmmdd", "YYYYmmdd", "YYmmddHHMM", "YYYYmmddHH", "YYYYmmddHHMM",
           "YYYYmmddHHMMSS")  # fmt: skip
"""Dates that are written as numbers: year, month, day, hour, minute, second."""
_PARTS = {"mm": (1, 12), "dd": (1, 31), "HH": (0, 23), "MM": (0, 59), "SS": (0, 60)}


def spells_date(number: Any, form: str) -> Any:
    """Returns whether a number spells a date.

    Args:
        number: a number, or a column or an expression of numbers.
        form: one of `FORMATS`.
    """
    rest, whole = number, number % 1 == 0
    year = form[: form.index("mm")]
    for start in range(len(form) - 2, len(year) - 1, -2):
        least, most = _PARTS[form[start : start + 2]]
        whole = whole & (rest % 100 >= least) & (rest % 100 <= most)
        rest = (rest - rest % 100) / 100
    least, most = (1900, 2099) if year == "YYYY" else (1, 99)
    return whole & (rest >= least) & (rest <= most)


@dataclass(frozen=True)
class UnitAdvice:
    """Advice in messages about numbers that are times."""

    dates: str = (
        "wanted text like 2024-05-01, or --time_unit seconds if they are seconds after "
        "all"
    )
    """If the numbers look like dates."""
    implausible: str = "wanted --time_unit, or dates such as 2024-05-01"
    """If no unit fits."""
    ranks: str = (
        "if they are ranks, name the column with --order_column instead of "
        "--time_column, otherwise give their --time_unit"
    )
    """If the numbers may not be times."""
    overrule: str = "; --time_unit overrides this"
    """If the unit is not seconds."""


def settle_unit(
    column: str,
    least: int | float,
    most: int | float,
    form: str | None,
    report: Callable[[str], None],
    advice: UnitAdvice = UnitAdvice(),
) -> TimeUnit:
    """Returns the unit of times, and reports why; see `unit_of`.

    Args:
        column: names the column in messages.
        least: the smallest of them.
        most: the largest of them.
        form: the one of `FORMATS` in which all of them spell dates, or None.
        report: receives the unit and warnings.
        advice: ends the messages.

    Raises:
        UserError: the numbers look like dates, or are plausible in no unit.
    """
    inferred = unit_of(least, most)
    numbers = f"{column} holds numbers from {least} to {most}"
    require(
        form is None,
        f"{numbers}, which look like dates written as {form}; {advice.dates}",
    )
    require(
        inferred.fits or most < YEAR_1971,
        f"{numbers}: {inferred.why}, and no other unit puts them between 1971 and "
        f"2100; {advice.implausible}",
    )
    dates = span(int(least), int(most))
    if not inferred.fits:
        report(
            f"warning: {numbers}: {inferred.why} ({dates}), and they are taken as "
            f"seconds because no other unit fits; {advice.ranks}"
        )
    elif inferred.unit != "seconds":
        report(
            f"{numbers}, which are taken as {inferred.unit}: {inferred.why}"
            f"{advice.overrule}"
        )
    elif most >= YEAR_2100 or least < YEAR_1971:
        report(
            f"warning: {numbers}, as seconds {dates}: are all of them in one unit, and "
            "is none of them, such as 0, an unknown time?"
        )
    return inferred.unit


def span(first: int, last: int) -> str:
    """Returns a range of unix seconds as dates.

    Args:
        first: the earliest.
        last: the latest.
    """
    return f"{date(first)} to {date(last)}"


def date(seconds: int) -> str:
    """Returns the day of a unix time, such as 2024-01-31."""
    days, start = seconds // 86_400, dt.date(1970, 1, 1).toordinal()
    if 1 <= start + days <= dt.date.max.toordinal():
        return dt.date.fromordinal(start + days).isoformat()
    return "before year 1" if seconds < 0 else "after year 9999"
