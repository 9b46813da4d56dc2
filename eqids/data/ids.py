"""Item and user ids: one way to read them, in every command and in Python.

A Parquet file says 3.0 where a command line says 3 and Python `np.int64(3)`. Ids that
are numbers are the same where their values are; ids that are text only where they are
spelled alike (`007` is not `7`). A value that is no text finds the text that spells it.
"""

import csv
import datetime
import decimal
import functools
import io
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")

Read = Callable[[Any], Sequence[Hashable]]
"""Returns what a value may be among ids of one type, the likeliest first."""


class Ids:
    """The ids of a column, found however they are spelled."""

    def __init__(self, column: pa.ChunkedArray):
        """Indexes the ids.

        Args:
            column: ids, each once.
        """
        self.kind = column.type
        self._read = reader(self.kind)
        ids = column.to_pylist()
        if _is_other(self.kind):
            ids = [str(one) for one in ids]
        self._rows = {one: row for row, one in enumerate(ids)}

    def find(self, values: Iterable[Any]) -> np.ndarray:
        """Returns the rows of ids, int64 [value]; -1 for those that are not there.

        Args:
            values: of any type. Arrays and columns of a table are read fastest.
        """
        if isinstance(values, np.ndarray | pd.Series | pd.Index):
            distinct, codes = distinct_values(values)
            # The row after the last is that of a missing value.
            return np.append(self.find(distinct), -1)[codes]
        return np.array([self._row(value) for value in values], np.int64)

    def _row(self, value: Any) -> int:
        rows = (self._rows.get(one, -1) for one in self._read(value))
        return next((row for row in rows if row >= 0), -1)


def distinct_values(column: np.ndarray | pd.Series | pd.Index) -> tuple[list, Any]:
    """Returns the distinct values of a column, and which of them stands in each row.

    The number of a missing value is -1. Values that cannot be hashed are kept apart.
    """
    try:
        codes, distinct = pd.factorize(column)
        return pd.Index(distinct).tolist(), codes
    except TypeError:
        return list(column), np.arange(len(column))


def typed_ids(text: str) -> list[str]:
    """Returns the ids of a command line: between commas, in quotes if one holds one."""
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    stripped = (one.strip() for row in rows for one in row)
    return [one for one in stripped if one]


def shown(value: Any) -> str:
    """Returns an id as a message names it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def reader(kind: pa.DataType) -> Read:
    """Returns how values become ids of a type."""
    if pa.types.is_integer(kind):
        return functools.partial(_as_integer, np.iinfo(kind.to_pandas_dtype()))
    if pa.types.is_floating(kind):
        return functools.partial(_as_float, kind.to_pandas_dtype())
    if pa.types.is_decimal(kind):
        return _as_decimal
    if pa.types.is_boolean(kind):
        return _as_bool
    if pa.types.is_date(kind):
        return _as_date
    if pa.types.is_timestamp(kind):
        return functools.partial(_as_moment, kind.tz is not None)
    return _as_text


def _is_other(kind: pa.DataType) -> bool:
    """Whether ids are compared by their texts, though they are none."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return reader(kind) is _as_text and not is_text


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _number(value: Any) -> int | float | Decimal | None:
    """The number that a value is or spells; True is none."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.strip()
        if _INTEGER.fullmatch(value) and len(value) < 400:
            return int(value)
        return Decimal(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool | np.bool_) or _is_missing(value):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    is_number = isinstance(value, Decimal) and value.is_finite()
    return value if is_number else None


def _as_integer(bounds: np.iinfo, value: Any) -> Sequence[Hashable]:
    number = _number(value)
    if number is None or not bounds.min <= number <= bounds.max:
        return ()
    return (int(number),) if number == int(number) else ()


def _as_float(dtype: type, value: Any) -> Sequence[Hashable]:
    number = _number(value)
    try:
        near = float("nan") if number is None else float(number)
    except OverflowError:  # of an integer
        return ()
    if not abs(near) <= float(np.finfo(dtype).max):
        return ()
    found = float(dtype(near))
    # Two integers that one float stands for are two ids.
    return () if isinstance(number, int) and found != number else (found,)


def _as_decimal(value: Any) -> Sequence[Hashable]:
    number = _number(value)
    if number is None:
        return ()
    return (Decimal(repr(number)) if isinstance(number, float) else Decimal(number),)


def _as_bool(value: Any) -> Sequence[Hashable]:
    if isinstance(value, bool | np.bool_):
        return (bool(value),)
    text = value.strip().casefold() if isinstance(value, str) else ""
    return (text == "true",) if text in ("true", "false") else ()


def _as_moment(zoned: bool, value: Any) -> Sequence[Hashable]:
    is_text = isinstance(value, str) and _STAMP.fullmatch(value.strip())
    is_moment = isinstance(value, datetime.date | np.datetime64)
    if not (is_text or is_moment) or _is_missing(value):
        return ()
    try:
        moment = pd.Timestamp(value)
    except (ValueError, OverflowError):
        return ()
    # UTC where no zone is said.
    known = moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
    return (known if zoned else known.tz_localize(None),)


def _as_date(value: Any) -> Sequence[Hashable]:
    moments: Any = _as_moment(False, value)
    return [one.date() for one in moments if one == one.normalize()]


def _as_text(value: Any) -> Sequence[Hashable]:
    if isinstance(value, bytes):
        return (value.decode(errors="replace"),)
    if isinstance(value, str):
        return (str(value),)
    if _is_missing(value):
        return ()
    if isinstance(value, bool | np.bool_):
        return str(value), str(value).lower()
    number = _number(value)
    if number is not None and number == int(number):
        return str(value), str(int(number))
    if isinstance(value, datetime.date | np.datetime64):
        moment = pd.Timestamp(value)
        day = [moment.date().isoformat()] if moment == moment.normalize() else []
        return (str(value), moment.isoformat(), str(moment), *day)
    return (str(value),)


def cast_ids(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Returns ids of a file as ids of another type.

    Raises:
        ValueError: its argument is the first value that is no id of that type.
    """
    if column.type == kind:
        return column
    if reader(kind) is _as_text:
        return column.cast(pa.string()).cast(kind)
    read, codes = reader(kind), column.combine_chunks().dictionary_encode()
    found = []
    for value in codes.dictionary.to_pylist():
        candidates = read(value)
        if not candidates:
            raise ValueError(value)
        found.append(candidates[0])
    try:
        ids = pa.array(found, kind)
    except (pa.ArrowInvalid, OverflowError, decimal.DecimalException):
        raise ValueError(found[0]) from None
    return pa.chunked_array([ids.take(codes.indices)], kind)
