"""What a source's columns hold: ids, times and ratings, checked and given a type."""

from collections.abc import Mapping
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.config import UserError, require
from eqids.data.sources import Source
from eqids.data.tables import reading

_TIME_WANTED = (
    "wanted numbers (unix seconds), dates, timestamps, or text like "
    "2024-05-01 12:30:00 or 2024-05-01T12:30:00Z"
)


def typed_events(source: Source, min_rating: float | None) -> tuple[ir.Table, int]:
    """The events of a source with checked values.

    Ids of a source of text are integers if every one spells an integer, written as
    Python would write it, else text as given; ids of other sources keep their type.

    Args:
        source: the columns as the file has them.
        min_rating: events rated lower are left out; none keeps all.

    Returns:
        The table: user, item, `when` (unix seconds, integers or floats; only if the
        source has times) and row; and the number of rows of the source.

    Raises:
        UserError: naming file, column, row and value at the first bad cell.
    """
    table = source.events
    _require_id_types(source)
    found = _survey(source)
    require(found["rows"] > 0, f"{source.file} has no rows, only column names")
    for name in ("user", "item"):
        _require_filled(source, name, found[f"{name}_empty"])
    columns = {n: _id(table[n], found.get(f"{n}_integers")) for n in ("user", "item")}
    if "time" in table.columns:
        _require_filled(source, "time", found["time_empty"])
        columns["when"] = _time(source, found)
    keep = None
    if min_rating is not None:
        keep = _rating(source) >= min_rating
    typed = table.filter(keep) if keep is not None else table
    return typed.select(**columns, row=table["row"]), found["rows"]


def _survey(source: Source) -> Mapping[str, Any]:
    """One pass over the file: rows, empty cells, and what texts spell."""
    table, row = source.events, source.events["row"]
    wanted: dict[str, Any] = {"rows": table.count()}
    for name in ("user", "item", "time"):
        if name in table.columns:
            wanted[f"{name}_empty"] = row.min(where=_is_empty(table[name]))
            if isinstance(table[name], ir.StringValue):
                wanted[f"{name}_integers"] = _spells_integer(table[name]).all()
    if "time" in table.columns and isinstance(table["time"], ir.StringValue):
        wanted["time_numbers"] = _number(table["time"]).count()
        wanted["time_stamps"] = _stamp(table["time"]).count()
    if not source.spelled:
        for name in ("user_integers", "item_integers"):
            wanted.pop(name, None)
    with reading(source.file):
        return table.aggregate(**wanted).to_pyarrow().to_pylist()[0]


def _require_id_types(source: Source) -> None:
    for name in ("user", "item"):
        kind = source.events[name].type()
        require(
            not (kind.is_nested() or kind.is_binary()),
            f"{source.file}: column {source.columns[name]!r} is {kind}, wanted ids "
            "that are integers or text",
        )


def _require_filled(source: Source, name: str, row: int | None) -> None:
    if row is not None:
        raise UserError(
            f"{source.file}: column {source.columns[name]!r} is empty in row "
            f"{row + 1}, wanted a value in every row"
        )


def _is_empty(column: Any) -> Any:
    empty = column.isnull()
    return empty | column.isnan() if column.type().is_floating() else empty


def _spells_integer(text: Any) -> Any:
    return (text.try_cast("int64").cast("string") == text).fill_null(False)


def _id(column: Any, integers: bool | None) -> Any:
    return column.cast("int64") if integers else column


def _number(text: Any) -> Any:
    number = text.try_cast("float64")
    bad = number.isnan() | number.isinf() | (number.abs() >= 2.0**62)
    return ibis.ifelse(bad, ibis.null("float64"), number)


def _stamp(column: Any) -> Any:
    """Seconds since 1970 of dates, timestamps and texts; UTC where no zone is said."""
    kind = "timestamp('UTC')"
    if isinstance(column, ir.StringValue):
        stamp = column.try_cast(kind)
    else:
        stamp = column.cast(kind)
    # Ibis calls the seconds int32, DuckDB gives a double with fractions.
    return stamp.epoch_seconds().cast("float64")


def _time(source: Source, found: Mapping[str, Any]) -> Any:
    column = source.events["time"]
    kind = column.type()
    if kind.is_string():
        if found["time_integers"]:
            return column.cast("int64")
        numeric = found["time_numbers"] >= found["time_stamps"]
        time = _number(column) if numeric else _stamp(column)
    elif kind.is_integer():
        time = column.try_cast("int64")
    elif kind.is_floating() or kind.is_decimal():
        time = _number(column)
    elif kind.is_date() or kind.is_timestamp() or kind.is_unknown():
        time = _stamp(column)
    else:
        raise UserError(
            f"{source.file}: column {source.columns['time']!r} is {kind}, "
            f"{_TIME_WANTED}"
        )
    _require_values(source, "time", time, _TIME_WANTED)
    return time


def _rating(source: Source) -> Any:
    require(
        "rating" in source.columns,
        f"{source.file}: --min_rating needs --rating_column, the column that holds "
        "the ratings",
    )
    rating = _number(source.events["rating"])
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
