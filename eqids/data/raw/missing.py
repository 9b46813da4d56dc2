"""Finds missing values of a source: empty cells, and words like NULL among numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from eqids.config import UserError
from eqids.data.raw.cells import NULL_WORDS as NULL_WORDS, is_word
from eqids.data.raw.engine import reading
from eqids.data.raw.sources import Source


@dataclass(frozen=True)
class ColumnSurvey:
    """Counts of one column of a file."""

    empty: int
    """Rows whose cell is empty, or one of --null_values."""
    first_empty: int | None
    """The first of them, from 0."""
    null_words: int
    """Rows whose text is one of `NULL_WORDS`."""
    first_null_word: int | None
    """The first of them, from 0."""
    others: int
    """Rows with another value."""
    numbers: int
    """Those of `others` whose text spells a number; 0 if cells are not texts."""
    integers: int
    """Those of `others` whose text spells an integer as Python writes it."""
    first_other: int | None
    """The first of `others` whose text is no integer, from 0."""
    stamps: int
    """Those of `others` whose text spells a date or a timestamp."""
    words_are_missing: bool
    """Whether `NULL_WORDS` mean a missing value: among numbers and times they do."""

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.empty + (self.null_words if self.words_are_missing else 0)


@dataclass(frozen=True)
class MissingAdvice:
    """Advice about missing values in messages."""

    empty: str = ", or --missing drop to leave these rows out"
    """If rows have an empty cell."""
    time: str = (
        "; --time_column None goes by the order of rows, and --order_column by another "
        "column"
    )
    """Continues the sentence if the column is the time."""
    null_words: str = "; --null_values names texts that mean an empty cell"
    """If texts look like a missing value."""


def survey(
    source: Source, names: Sequence[str], null_values: Sequence[str]
) -> tuple[int, Mapping[str, ColumnSurvey]]:
    """Counts what the columns of a source hold.

    One pass counts empty cells and integers. A second one reads the columns of texts
    that are not all integers.

    Args:
        source: the columns as the file has them.
        names: the columns to count, of `source.columns`.
        null_values: texts that mean an empty cell.

    Returns:
        The number of rows, and the counts by column.
    """
    table = source.events
    first = {name: _counts(table, name, null_values) for name in names}
    found = _counted(source, {"": {"rows": table.count()}, **first})
    texts = [
        name
        for name in names
        if isinstance(table[name], ir.StringValue)
        and (found[f"{name}_integers"] or 0) < (found[f"{name}_others"] or 0)
    ]
    if texts:
        more = {name: _counts_of_texts(table, name, null_values) for name in texts}
        found |= _counted(source, more)
    return found["_rows"], {name: _survey_of(name, found) for name in names}


def _counted(source: Source, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Aggregates in one pass; keys are joined by an underscore."""
    flat = {
        f"{n}_{key}": one for n, each in wanted.items() for key, one in each.items()
    }
    with reading(source.file):
        found = source.events.aggregate(**flat).to_pyarrow().to_pylist()[0]
    return dict(found)


def _counts(
    table: ir.Table, name: str, null_values: Sequence[str]
) -> Mapping[str, Any]:
    column, row = table[name], table["row"]
    empty = _is_empty(column, null_values)
    counts = {
        "empty": empty.sum(),
        "first_empty": row.min(where=empty),
        "others": (~empty).sum(),
    }
    if not isinstance(column, ir.StringValue):
        return counts
    integers = (~empty & _spells_integer(column)).sum()
    return counts | {"integers": integers, "numbers": integers}


def _counts_of_texts(
    table: ir.Table, name: str, null_values: Sequence[str]
) -> Mapping[str, Any]:
    column, row = table[name], table["row"]
    empty, word = _is_empty(column, null_values), is_word(column)
    word = word & ~empty
    other = ~empty & ~word
    integer = _spells_integer(column)
    counts = {
        "null_words": word.sum(),
        "first_null_word": row.min(where=word),
        "others": other.sum(),
        "numbers": (other & _spells_number(column)).sum(),
        "integers": (other & integer).sum(),
        "first_other": row.min(where=other & ~integer),
    }
    if name in ("user", "item"):
        return counts
    return counts | {"stamps": (other & stamp(column).notnull()).sum()}


def _survey_of(name: str, found: Mapping[str, Any]) -> ColumnSurvey:
    def of(key: str) -> int:
        return int(found.get(f"{name}_{key}") or 0)

    others, numbers = of("others"), of("numbers")
    return ColumnSurvey(
        empty=of("empty"),
        first_empty=found[f"{name}_first_empty"],
        null_words=of("null_words"),
        first_null_word=found.get(f"{name}_first_null_word"),
        others=others,
        numbers=numbers,
        integers=of("integers"),
        first_other=found.get(f"{name}_first_other"),
        stamps=of("stamps"),
        # If ids are texts, an item may be called None; a time may not.
        words_are_missing=name not in ("user", "item") or 0 < others == numbers,
    )


def is_missing(column: Any, found: ColumnSurvey, null_values: Sequence[str]) -> Any:
    """Returns the expression of whether a cell has no value.

    Args:
        column: a column of the source.
        found: the survey's counts of it.
        null_values: texts that mean an empty cell.
    """
    empty = _is_empty(column, null_values)
    return empty | is_word(column) if found.words_are_missing else empty


def check_missing(
    source: Source,
    num_rows: int,
    found: Mapping[str, ColumnSurvey],
    missing: Literal["refuse", "drop"],
    report: Callable[[str], None],
    advice: MissingAdvice = MissingAdvice(),
) -> None:
    """Refuses or reports rows without a value, and reports ids that look like missing
    values.

    Args:
        source: the columns as the file has them.
        num_rows: its rows.
        found: the survey's counts, by column.
        missing: whether to refuse or drop rows without a value.
        report: receives warnings.
        advice: ends the messages.

    Raises:
        UserError: rows lack a value, and `missing` is `refuse`.
    """
    for name, column in found.items():
        if column.missing and missing == "refuse":
            raise UserError(
                f"{source.file}: column {source.columns[name]!r} "
                f"{_what(source, name, column, num_rows)}; wanted a value in every "
                f"row{advice.empty}{advice.time if name == 'time' else ''}"
            )
    for name in [one for one in ("user", "item") if one in found]:
        column = found[name]
        if source.spelled and column.others > column.integers >= column.others / 2:
            report(_mixed(source, name, column))
        if column.null_words and not column.words_are_missing:
            report(
                f"warning: {source.file}: column {source.columns[name]!r} is "
                f"{_cell(source, name, column.first_null_word)!r} or the like in "
                f"{column.null_words:,} of {num_rows:,} rows, first in row "
                f"{(column.first_null_word or 0) + 1}: taken for ids, because the "
                f"others are texts too{advice.null_words}"
            )


def _mixed(source: Source, name: str, column: ColumnSurvey) -> str:
    """The warning about ids of which most, but not all, are integers."""
    strays, first = column.others - column.integers, column.first_other
    return (
        f"warning: {source.file}: column {source.columns[name]!r} holds integers in "
        f"{column.integers:,} rows and other texts in {strays:,}, the first is "
        f"{_cell(source, name, first)!r} in row {(first or 0) + 1}: all are taken for "
        "texts, so that 5 and 5.0 are two ids; --null_values names texts that mean an "
        "empty cell"
    )


def _what(source: Source, name: str, column: ColumnSurvey, num_rows: int) -> str:
    """The number of cells without a value, and the first of them."""
    of_rows = f"of {num_rows:,} rows, first in row"
    empty = f"is empty in {column.empty:,} {of_rows} {(column.first_empty or 0) + 1}"
    if not column.null_words or not column.words_are_missing:
        return empty
    text = _cell(source, name, column.first_null_word)
    what = "times" if name == "time" else "numbers"
    words = (
        f"is {text!r} in {column.null_words:,} {of_rows} "
        f"{(column.first_null_word or 0) + 1}, among {what}"
    )
    return f"{empty}, and {words}" if column.empty else words


def _cell(source: Source, name: str, row: int | None) -> str:
    table = source.events
    cell = table.filter(table["row"] == row).select(cell=table[name].cast("string"))
    with reading(source.file):
        return str(cell.to_pyarrow()["cell"][0].as_py())


def _is_empty(column: Any, null_values: Sequence[str]) -> Any:
    empty = column.isnull()
    if column.type().is_floating():
        return empty | column.isnan()
    if isinstance(column, ir.StringValue) and null_values:
        return empty | column.isin(list(null_values)).fill_null(False)
    return empty


def _spells_integer(text: Any) -> Any:
    return (text.try_cast("int64").cast("string") == text).fill_null(False)


def _spells_number(text: Any) -> Any:
    value = text.try_cast("float64")
    return (value.notnull() & ~value.isnan() & ~value.isinf()).fill_null(False)


def number(text: Any) -> Any:
    """Returns the finite number that a cell holds or spells, or null."""
    value = text.try_cast("float64")
    bad = value.isnan() | value.isinf() | (value.abs() >= 2.0**62)
    return ibis.ifelse(bad, ibis.null("float64"), value)


def stamp(column: Any) -> Any:
    """Returns seconds since 1970 of dates, timestamps and texts; the default is UTC."""
    kind = "timestamp('UTC')"
    if isinstance(column, ir.StringValue):
        moment = column.try_cast(kind)
    else:
        moment = column.cast(kind)
    if column.get_backend().name == "pyspark":
        # Spark's seconds have no fractions, and an integer / 1e6 would be a decimal.
        return _unix_micros(moment).cast("float64") / 1e6
    # Ibis calls the seconds int32, DuckDB gives a double with fractions.
    return moment.epoch_seconds().cast("float64")


def _micros(moment: Any) -> Any:
    """The microseconds since 1970 of a timestamp, a function of Spark."""


_unix_micros = ibis.udf.scalar.builtin(
    _micros, name="unix_micros", signature=((dt.Timestamp(timezone="UTC"),), dt.int64)
)
