"""Checks the columns of a source, ids, times and ratings, and gives them types."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import ibis.expr.types as ir

from eqids.config import PrepareConfig, TimeUnit, UserError, require
from eqids.data.raw.engine import reading
from eqids.data.raw.missing import (
    ColumnSurvey,
    check_missing,
    is_missing,
    number,
    stamp,
    survey,
)
from eqids.data.raw.sources import Source
from eqids.data.raw.time_format import with_standard_times
from eqids.data.raw.times import (
    FORMATS,
    SECONDS,
    TIMES_WANTED,
    settle_unit,
    spells_date,
)

_EXAMPLE = datetime.datetime(2024, 12, 31, 17, 30)
"""A time that messages show in the form of --time_format."""
_ORDER_WANTED = "wanted numbers, dates or timestamps"


@dataclass(frozen=True)
class TypedEvents:
    """The events of a source, with checked values."""

    table: ir.Table
    """user, item and row; `when`, integers or floats, if the source has times; and
    `rank`, integers or floats, if a column orders events."""
    num_rows: int
    """Rows of the source."""
    num_missing: int
    """Rows that were left out because a value is missing."""
    unit: TimeUnit | None
    """Unit of `when`, or none without times."""


def typed_events(
    source: Source, config: PrepareConfig, report: Callable[[str], None]
) -> TypedEvents:
    """Checks the values of a source's events, and gives them types.

    Ids of a source of text become integers if every one spells an integer as Python
    writes it, and otherwise stay text; ids of other sources keep their type.

    Args:
        source: the columns as the file has them.
        config: the filters, and what missing values and times mean.
        report: receives the unit of times, and warnings.

    Raises:
        UserError: a cell is invalid; the message names file, column, row and value of
            the first.
    """
    require_id_types(source)
    if config.time_format is not None:
        source = with_standard_times(source, config.time_format)
    names = [name for name in source.columns if name != "rating"]
    if config.min_rating is not None:
        _require_rating(source)
        names.append("rating")
    num_rows, found = survey(source, names, config.null_values)
    require(num_rows > 0, f"{source.file} has no rows, only column names")
    check_missing(source, num_rows, found, config.missing, report)
    whole, num_missing = _whole(source, found, config, report)
    require(
        num_missing < num_rows,
        f"{source.file}: none of {num_rows:,} rows has a value in all of "
        f"{', '.join(source.columns[name] for name in names)}",
    )
    table = whole.events
    columns = {n: typed_id(whole, n, found[n]) for n in ("user", "item")}
    unit: TimeUnit | None = None
    if "time" in found:
        columns["when"], unit = _times(whole, found["time"], config, report)
    if "order" in found:
        columns["rank"], _ = moments_of(whole, "order", found["order"], _ORDER_WANTED)
    typed = table
    if config.min_rating is not None:
        typed = table.filter(_rating(whole) >= config.min_rating)
    return TypedEvents(
        typed.select(**columns, row=table["row"]), num_rows, num_missing, unit
    )


def seconds(when: Any, unit: TimeUnit) -> Any:
    """Returns the expression of whole unix seconds, rounded down.

    Args:
        when: integers or floats.
        unit: their unit.
    """
    factor = SECONDS[unit]
    if when.type().is_integer() and factor < 1:
        # Whole numbers of one unit in a second; floats would round 19 digits up.
        parts = factor.denominator
        return ((when - (when % parts + parts) % parts) / parts).cast("int64")
    if when.type().is_integer():
        return when * int(factor)
    return (when * float(factor)).floor().cast("int64")


def require_id_types(source: Source) -> None:
    """Raises UserError unless users and items have types that ids may have."""
    for name in ("user", "item"):
        kind = source.events[name].type()
        require(
            not (kind.is_nested() or kind.is_binary()),
            f"{source.file}: column {source.columns[name]!r} is {kind}, wanted ids "
            "that are integers or text",
        )


def _whole(
    source: Source,
    found: Mapping[str, ColumnSurvey],
    config: PrepareConfig,
    report: Callable[[str], None],
) -> tuple[Source, int]:
    """The rows of a source that lack no value, and the number of the others."""
    lacking = {name: one.missing for name, one in found.items() if one.missing}
    if not lacking:
        return source, 0
    table = source.events
    missing = [is_missing(table[n], found[n], config.null_values) for n in lacking]
    dropped = reduce(or_, missing)
    with reading(source.file):
        num_missing = int(table.aggregate(n=dropped.sum()).to_pyarrow()["n"][0].as_py())
    named = ", ".join(f"{source.columns[n]!r} {k:,}" for n, k in lacking.items())
    report(
        f"{num_missing:,} rows are left out (--missing drop), because they have no "
        f"value in: {named}"
    )
    return replace(source, events=table.filter(~dropped)), num_missing


def typed_id(source: Source, name: str, found: ColumnSurvey) -> Any:
    """Returns the expression of ids, which become integers or keep their type.

    Args:
        source: the columns as the file has them.
        name: user or item.
        found: what the survey found in that column.
    """
    column = source.events[name]
    integers = source.spelled and found.integers == found.others
    has_null_words = found.null_words > 0 and not found.words_are_missing
    return column.cast("int64") if integers and not has_null_words else column


def moments_of(
    source: Source, name: str, found: ColumnSurvey, wanted: str
) -> tuple[Any, bool]:
    """Returns the expression of a column that orders events, and whether it is numeric.

    Args:
        source: the columns as the file has them.
        name: time or order.
        found: what the survey found in that column.
        wanted: ends the message about a value of another kind.

    Raises:
        UserError: a value cannot be ordered; the message names the first.
    """
    column = source.events[name]
    kind = column.type()
    numeric = True
    if kind.is_string() and found.integers == found.others:
        moment = column.cast("int64")
    elif kind.is_string():
        numeric = found.numbers >= found.stamps
        moment = number(column) if numeric else stamp(column)
    elif kind.is_integer():
        moment = column.try_cast("int64")
    elif kind.is_floating() or kind.is_decimal():
        moment = number(column)
    elif kind.is_date() or kind.is_timestamp() or kind.is_unknown():
        numeric, moment = False, stamp(column)
    else:
        raise UserError(
            f"{source.file}: column {source.columns[name]!r} is {kind}, {wanted}"
        )
    _require_values(source, name, moment, wanted)
    return moment, numeric


def _times(
    source: Source,
    found: ColumnSurvey,
    config: PrepareConfig,
    report: Callable[[str], None],
) -> tuple[Any, TimeUnit]:
    """The expression of times and their unit."""
    form = config.time_format
    wanted = TIMES_WANTED + "; --time_format reads others, such as %d.%m.%Y"
    if form is not None:
        wanted = f"wanted a time like {_EXAMPLE.strftime(form)} (--time_format {form})"
    when, numeric = moments_of(source, "time", found, wanted)
    column = f"{source.file}: column {source.columns['time']!r}"
    require(form is None or not numeric, f"{column} holds numbers, {wanted}")
    if not numeric:
        require(
            config.time_unit is None,
            f"--time_unit is {config.time_unit}, and {column} holds dates or "
            "timestamps, which need no unit",
        )
        return when, "seconds"
    with reading(source.file):
        ends = source.events.aggregate(least=when.min(), most=when.max()).to_pyarrow()
    least, most = ends["least"][0].as_py(), ends["most"][0].as_py()
    unit = config.time_unit
    if unit is None:
        form = date_form(source, when, least, most)
        unit = settle_unit(column, least, most, form, report)
    longest = max(abs(least), abs(most)) * SECONDS[unit]
    require(
        longest < 2**62,
        f"{column} holds numbers up to {max(abs(least), abs(most))}, which are too "
        f"large for {unit}; see --time_unit",
    )
    return when, unit


def date_form(
    source: Source, when: Any, least: int | float, most: int | float
) -> str | None:
    """Returns the form in which all times spell dates, if there is one.

    Args:
        source: the columns as the file has them.
        when: the expression of times that are numbers.
        least: the smallest of them.
        most: the largest of them.
    """
    # Few columns begin and end with such numbers; only these columns are read again.
    likely = [f for f in FORMATS if spells_date(least, f) and spells_date(most, f)]
    for form in likely:
        with reading(source.file):
            spelled = source.events.aggregate(all=spells_date(when, form).all())
            if spelled.to_pyarrow()["all"][0].as_py():
                return form
    return None


def _require_rating(source: Source) -> None:
    require(
        "rating" in source.columns,
        f"{source.file}: --min_rating needs --rating_column, the column that holds "
        "the ratings",
    )


def _rating(source: Source) -> Any:
    rating = number(source.events["rating"])
    _require_values(source, "rating", rating, "wanted a number in every row")
    return rating


def _require_values(source: Source, name: str, value: Any, wanted: str) -> None:
    table = source.events
    with reading(source.file):
        row = table.aggregate(bad=table["row"].min(where=value.isnull())).to_pyarrow()
        bad = row["bad"][0].as_py()
        if bad is None:
            return
        cell = table.filter(table["row"] == bad).select(cell=table[name].cast("string"))
        text = cell.to_pyarrow()["cell"][0].as_py()
    raise UserError(
        f"{source.file}: column {source.columns[name]!r} is {text!r} in row {bad + 1}, "
        f"{wanted}"
    )
