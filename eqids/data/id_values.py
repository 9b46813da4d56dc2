"""Reads values of any type as ids of one type.

A Parquet file may hold 3.0, a command line 3, and Python `np.int64(3)`. Ids that are
numbers are equal if their values are. Ids that are text are equal if they are spelled
alike (`007` is not `7`). A value of another type matches the text that spells it.
"""

import contextlib
import datetime
import decimal
import functools
import re
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?")

ReadId = Callable[[Any], Sequence[Hashable]]
"""Returns the ids of one type that a value may mean, the likeliest first."""


def id_reader(kind: pa.DataType) -> ReadId:
    """Returns the function that reads values as ids of a type."""
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
    if pa.types.is_time(kind):
        return _as_time
    return _as_text


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    """Returns whether every text of a column matches a pattern; nulls are ignored."""
    matches = pc.match_substring_regex(column, f"^(?:{pattern})$")
    return bool(pc.all(matches).as_py())


def whole_number(value: Any) -> int | None:
    """Returns the integer that a value is, or that a text without spaces spells."""
    if isinstance(value, str):
        match = WHOLE.fullmatch(value)
        return None if match is None else int(match[1])
    number = _number(value)
    return None if number is None or number != int(number) else int(number)


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _number(value: Any) -> int | float | Decimal | None:
    """The number that a value is or spells; None for True and other values."""
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
    # Two integers that round to one float are two ids.
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
    # UTC, unless the value names a zone.
    utc = moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
    return (utc if zoned else utc.tz_localize(None),)


def _as_date(value: Any) -> Sequence[Hashable]:
    moments: Any = _as_moment(False, value)
    return [one.date() for one in moments if one == one.normalize()]


def _as_time(value: Any) -> Sequence[Hashable]:
    if isinstance(value, str) and _CLOCK.fullmatch(value.strip()):
        try:
            value = datetime.time.fromisoformat(value.strip())
        except ValueError:
            return ()
    return (value,) if isinstance(value, datetime.time) else ()


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


def as_ids(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Returns the values of a file as ids of another type, null for other values.

    Args:
        column: a column of any type.
        kind: the type of the ids.
    """
    if column.type == kind:
        return column
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _cast(column, kind)
    read, codes = id_reader(kind), column.combine_chunks().dictionary_encode()
    values = codes.dictionary.to_pylist()
    ids = pa.array([_scalar(read(value), kind) for value in values], kind)
    return pa.chunked_array([ids.take(codes.indices)], kind)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Casts a whole column; the result is the same as reading its values one by one.

    Raises:
        ArrowInvalid: its values must be read one by one.
    """
    if is_text(kind):
        return column.cast(pa.string()).cast(kind)
    if is_text(column.type) and all_match(column, WHOLE.pattern):
        column = pc.replace_substring_regex(column, r"\.0+$", "").cast(pa.int64())
    if _is_number(column.type) and _is_number(kind):
        numbers = column.cast(kind)
        if pc.all(pc.is_finite(numbers)).as_py():
            return numbers
    raise pa.ArrowInvalid(f"{column.type} is not cast to {kind}")


def _scalar(candidates: Sequence[Hashable], kind: pa.DataType) -> Any:
    """The first of the candidates, if the type holds it exactly."""
    with contextlib.suppress(
        pa.ArrowException, OverflowError, decimal.DecimalException
    ):
        for one in candidates:
            found = pa.scalar(one, kind).as_py()
            return found if found == one else None
    return None
