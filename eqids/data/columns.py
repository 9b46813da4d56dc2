"""What a source's columns hold: ids, times and ratings, checked and given a type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any

import ibis.expr.types as ir

from eqids.config import PrepareConfig, TimeUnit, UserError, require
from eqids.data.engine import reading
from eqids.data.missing import (
    ColumnSurvey,
    check_missing,
    is_missing,
    number,
    stamp,
    survey,
)
from eqids.data.sources import Source
from eqids.data.times import (
    FORMATS,
    SECONDS,
    YEAR_1971,
    YEAR_2100,
    Taken,
    span,
    spells_date,
    unit_of,
)

_TIME_WANTED = (
    "wanted numbers (unix seconds), dates, timestamps, or text like "
    "2024-05-01 12:30:00 or 2024-05-01T12:30:00Z"
)
_ORDER_WANTED = "wanted numbers, dates or timestamps"


@dataclass(frozen=True)
class TypedEvents:
    """The events of a source, with checked values."""

    table: ir.Table
    """user, item and row; `when`, integers or floats, where there are times; `rank`,
    likewise, where a column orders events."""
    num_rows: int
    """Rows of the source."""
    num_missing: int
    """Rows that were left out because a value is missing."""
    unit: TimeUnit | None
    """Unit of `when`, or none where there are no times."""


def typed_events(
    source: Source, config: PrepareConfig, progress: Callable[[str], None]
) -> TypedEvents:
    """The events of a source with checked values.

    Ids of a source of text are integers if every one spells an integer, written as
    Python would write it, else text as given; ids of other sources keep their type.

    Args:
        source: the columns as the file has them.
        config: the filters, and what missing values and times mean.
        progress: is told what times were taken for, and what is unusual.

    Raises:
        UserError: naming file, column, row and value at the first bad cell.
    """
    _require_id_types(source)
    names = [name for name in source.columns if name != "rating"]
    if config.min_rating is not None:
        _require_rating(source)
        names.append("rating")
    num_rows, found = survey(source, names, config.null_values)
    require(num_rows > 0, f"{source.file} has no rows, only column names")
    check_missing(source, num_rows, found, config.missing, progress)
    whole, num_missing = _whole(source, found, config, progress)
    require(
        num_missing < num_rows,
        f"{source.file}: none of {num_rows:,} rows has a value in all of "
        f"{', '.join(source.columns[name] for name in names)}",
    )
    table = whole.events
    columns = {n: _id(whole, n, found[n]) for n in ("user", "item")}
    unit: TimeUnit | None = None
    if "time" in found:
        columns["when"], unit = _times(whole, found["time"], config, progress)
    if "order" in found:
        columns["rank"], _ = _moments(whole, "order", found["order"], _ORDER_WANTED)
    typed = table
    if config.min_rating is not None:
        typed = table.filter(_rating(whole) >= config.min_rating)
    return TypedEvents(
        typed.select(**columns, row=table["row"]), num_rows, num_missing, unit
    )


def seconds(when: Any, unit: TimeUnit) -> Any:
    """The expression of whole unix seconds, rounded down.

    Args:
        when: integers or floats.
        unit: theirs.
    """
    factor = SECONDS[unit]
    if when.type().is_integer() and factor < 1:
        # Whole numbers of one unit in a second; floats would round 19 digits up.
        parts = factor.denominator
        return ((when - (when % parts + parts) % parts) / parts).cast("int64")
    if when.type().is_integer():
        return when * int(factor)
    return (when * float(factor)).floor().cast("int64")


def _require_id_types(source: Source) -> None:
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
    progress: Callable[[str], None],
) -> tuple[Source, int]:
    """The rows of a source that lack no value, and how many others there are."""
    lacking = {name: one.missing for name, one in found.items() if one.missing}
    if not lacking:
        return source, 0
    table = source.events
    missing = [is_missing(table[n], found[n], config.null_values) for n in lacking]
    dropped = reduce(or_, missing)
    with reading(source.file):
        num_missing = int(table.aggregate(n=dropped.sum()).to_pyarrow()["n"][0].as_py())
    named = ", ".join(f"{source.columns[n]!r} {k:,}" for n, k in lacking.items())
    progress(
        f"{num_missing:,} rows are left out (--missing drop), for they have no value "
        f"in: {named}"
    )
    return replace(source, events=table.filter(~dropped)), num_missing


def _id(source: Source, name: str, found: ColumnSurvey) -> Any:
    column = source.events[name]
    integers = source.spelled and found.integers == found.others
    return column.cast("int64") if integers and not _keeps_words(found) else column


def _keeps_words(found: ColumnSurvey) -> bool:
    return found.words > 0 and not found.words_are_missing


def _moments(
    source: Source, name: str, found: ColumnSurvey, wanted: str
) -> tuple[Any, bool]:
    """The expression of a column that orders events, and whether it holds numbers."""
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
    progress: Callable[[str], None],
) -> tuple[Any, TimeUnit]:
    """The expression of times and their unit."""
    when, numeric = _moments(source, "time", found, _TIME_WANTED)
    column = f"{source.file}: column {source.columns['time']!r}"
    if not numeric:
        require(
            config.time_unit is None,
            f"--time_unit is {config.time_unit}, and {column} holds dates or "
            "timestamps, which need no unit",
        )
        return when, "seconds"
    spelled = {form: spells_date(when, form).all() for form in FORMATS}
    with reading(source.file):
        found = source.events.aggregate(least=when.min(), most=when.max(), **spelled)
        (row,) = found.to_pyarrow().to_pylist()
    least, most = row["least"], row["most"]
    unit = config.time_unit
    if unit is None:
        form = next((form for form in FORMATS if row[form]), None)
        require(
            form is None,
            f"{column} holds numbers from {least} to {most}, which look like dates "
            f"written as {form}; wanted text like 2024-05-01, or --time_unit seconds "
            "if they are seconds after all",
        )
        unit = _taken(column, least, most, unit_of(least, most), progress)
    longest = max(abs(least), abs(most)) * SECONDS[unit]
    require(
        longest < 2**62,
        f"{column} holds numbers up to {max(abs(least), abs(most))}, which are too "
        f"large for {unit}; see --time_unit",
    )
    return when, unit


def _taken(
    column: str,
    least: int | float,
    most: int | float,
    taken: Taken,
    progress: Callable[[str], None],
) -> TimeUnit:
    """Says what numbers are taken for; refuses those that are plausibly nothing."""
    numbers = f"{column} holds numbers from {least} to {most}"
    require(
        taken.fits or most < YEAR_1971,
        f"{numbers}: {taken.why}, and no other unit puts them between 1971 and 2100; "
        "wanted --time_unit, or dates such as 2024-05-01",
    )
    dates = span(int(least), int(most))
    if not taken.fits:
        progress(
            f"warning: {numbers}: {taken.why} ({dates}), and they are taken as seconds "
            "as no other unit fits; if they are ranks, name the column with "
            "--order_column and not as --time_column, else say their --time_unit"
        )
    elif taken.unit != "seconds":
        progress(
            f"{numbers}, which are taken as {taken.unit}: {taken.why}; --time_unit "
            "says otherwise"
        )
    elif most >= YEAR_2100 or least < YEAR_1971:
        progress(
            f"warning: {numbers}, as seconds {dates}: are all of them in one unit, and "
            "is none of them, such as 0, an unknown time?"
        )
    return taken.unit


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
