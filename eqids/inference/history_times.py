"""Reads the times of histories: they order the events, and become unix seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from eqids.config import TimeUnit, require
from eqids.data import Dataset
from eqids.data.raw.history_files import moments_of_texts
from eqids.data.raw.history_units import WITHOUT_TIMES, unit_of_histories
from eqids.data.raw.times import FORMATS, SECONDS, TIMES_WANTED, spells_date

_RESOLUTIONS: Mapping[str, TimeUnit] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
"""Units of timestamps by the names that Arrow gives them."""
_LARGEST = 2**62


@dataclass(frozen=True)
class EventTimes:
    """When the events of a table happened."""

    order: np.ndarray
    """int64 [event]: the rows, oldest first; equal times keep their order."""
    seconds: np.ndarray
    """int64 [event]: unix seconds of each row, rounded down."""


def event_times(
    times: pd.Series,
    name: str,
    dataset: Dataset,
    report: Callable[[str], None],
    column: str = "time",
) -> EventTimes:
    """Reads a column of times; dates and texts without a time zone are in UTC.

    Args:
        times: numbers, timestamps, dates or texts.
        name: of the table, for messages.
        dataset: small numbers are taken to be in the unit of its source.
        report: receives the unit that numbers are taken to be in.
        column: the name of the column, `time` or `request_time`.

    Raises:
        UserError: a time is missing or invalid (the message names the first), or
            numbers are plausible in no unit.
    """
    where, without = f"{name}: column {column!r}", WITHOUT_TIMES[column]
    values = _arrow(times, where)
    _require_filled(values, where, without)
    kind = values.type
    unit: TimeUnit | None = None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        moments, numeric = moments_of_texts(values, name, without, report, column)
        unit = None if numeric else "seconds"
    elif pa.types.is_timestamp(kind):
        moments, unit = values.cast("int64").to_numpy(), _RESOLUTIONS[kind.unit]
    elif pa.types.is_date(kind):
        days = values.cast("date32").cast("int32")
        moments, unit = days.to_numpy().astype(np.int64), "days"
    else:
        moments = _numbers(values, where)
    if unit is None:
        ends = moments.min().item(), moments.max().item()
        unit = unit_of_histories(where, *ends, _date_form(moments), dataset, report)
    order = np.argsort(moments, kind="stable")
    return EventTimes(order, _seconds(moments, unit, where))


def _arrow(times: pd.Series, where: str) -> pa.ChunkedArray:
    """Returns the column in Arrow's type; objects of several types become texts."""
    if isinstance(times.dtype, pd.CategoricalDtype):
        times = times.astype(times.cat.categories.dtype)
    times = times.infer_objects()
    try:
        column = pa.array(times, from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        require(times.dtype == object, f"{where} is {times.dtype}, {TIMES_WANTED}")
        texts = times.map(str, na_action="ignore")
        column = pa.array(texts, pa.string(), from_pandas=True)
    kind = column.type
    usual = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_timestamp,
        pa.types.is_date, pa.types.is_integer, pa.types.is_floating,
        pa.types.is_decimal, pa.types.is_null,
    )  # fmt: skip
    shown = kind if times.dtype == object else times.dtype
    require(any(one(kind) for one in usual), f"{where} is {shown}, {TIMES_WANTED}")
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _require_filled(column: pa.ChunkedArray, where: str, without: str) -> None:
    empty = np.asarray(column.is_null())
    require(
        not empty.any(),
        f"{where} is empty in {empty.sum():,} of {len(empty):,} rows, first in row "
        f"{empty.argmax() + 1}; wanted a value in every row{without}",
    )


def _numbers(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Returns numbers, int64 or float64 [event]."""
    if pa.types.is_integer(column.type):
        numbers = column.to_numpy()
    else:
        numbers = column.cast("float64").to_numpy()
    bad = ~(np.abs(numbers.astype(np.float64)) < _LARGEST)
    row = int(bad.argmax())
    require(
        not bad.any(), f"{where} is '{column[row]}' in row {row + 1}, {TIMES_WANTED}"
    )
    return numbers.astype(np.int64) if numbers.dtype.kind in "iu" else numbers


def _date_form(numbers: np.ndarray) -> str | None:
    """Returns the form in which all numbers spell dates, if there is one."""
    return next((one for one in FORMATS if spells_date(numbers, one).all()), None)


def _seconds(moments: np.ndarray, unit: TimeUnit, where: str) -> np.ndarray:
    """Returns whole unix seconds, rounded down."""
    factor = SECONDS[unit]
    largest = max(abs(moments.min().item()), abs(moments.max().item()))
    require(
        largest * factor < _LARGEST,
        f"{where} holds times up to {largest} {unit} from 1970, {TIMES_WANTED}",
    )
    if moments.dtype.kind == "f":
        return np.floor(moments * float(factor)).astype(np.int64)
    return moments * int(factor) if factor > 1 else moments // factor.denominator
