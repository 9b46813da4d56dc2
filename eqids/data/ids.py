"""Item and user ids: one way to read them, in every command and in Python.

A Parquet file says 3.0 where a command line says 3 and Python `np.int64(3)`. Ids that
are numbers are the same where their values are; ids that are text only where they are
spelled alike (`007` is not `7`), or all of them spell integers as `3` or `3.0`. A value
that is no text finds the text that spells it.
"""

import contextlib
import datetime
import decimal
import functools
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?")
_TYPED = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^,\r\n]*))(?:[,\r\n]|\Z)')

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
        self._column = column
        self._read = reader(self.kind)

    def find(self, values: Iterable[Any] | pa.ChunkedArray) -> np.ndarray:
        """Returns the rows of ids, int64 [value]; -1 for those that are not there.

        Args:
            values: of any type. Arrays and columns of a table are read fastest.
        """
        if isinstance(values, pa.ChunkedArray):
            return self._find_column(values)
        if isinstance(values, np.ndarray | pd.Series | pd.Index):
            distinct, codes = distinct_values(values)
            # The row after the last is that of a missing value.
            return np.append(self.find(distinct), -1)[codes]
        return np.array([self._row(value) for value in values], np.int64)

    def read(self, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
        """Reads a column of a file.

        Args:
            column: of any type.

        Returns:
            The rows of its ids, int64 [value], -1 for those that are not there; and
            all of them as ids of this type, null where a value is no such id.
        """
        rows, ids = self.find(column), as_ids(column, self.kind)
        if column.type == self.kind:
            return rows, ids
        known = self._column.take(pa.array(rows, mask=rows < 0))
        return rows, pc.coalesce(known, ids)

    def number(self, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
        """Numbers the items that a column of a file names.

        Args:
            column: of any type, without nulls.

        Returns:
            The number of each value's item, int64 [value]: the row of an id that is
            there, and for others numbers from `len(self)` on; values that are no ids
            are one where they are equal. And the ids, see `read`.
        """
        numbers, ids = self.read(column)
        others = np.flatnonzero(numbers < 0)
        new, num_new = _codes(ids.take(others))
        given, _ = _codes(column.take(others))
        places = np.where(new >= 0, new, num_new + given)
        numbers[others] = len(self) + places
        return numbers, ids

    def __len__(self) -> int:
        """Returns the number of ids."""
        return len(self._column)

    def _find_column(self, column: pa.ChunkedArray) -> np.ndarray:
        if _is_text(self.kind) and not _is_text(column.type):
            encoded = column.combine_chunks().dictionary_encode()
            # The row after the last is that of a missing value.
            found = np.append(self.find(encoded.dictionary.to_pylist()), -1)
            return found[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        held, known = as_ids(column, self.kind), self._column
        if pa.types.is_floating(self.kind):
            # The sum of -0.0 and 0.0 is 0.0: both are one number, of different bits.
            held, known = pc.add(held, 0.0), pc.add(known, 0.0)
        rows = pc.index_in(held, value_set=known, skip_nulls=True)
        rows = rows.fill_null(-1).to_numpy().astype(np.int64)
        others = rows < 0
        if _is_text(self.kind) and others.any() and self._whole is not None:
            rows[others] = self.find(column.filter(pa.array(others)).to_pylist())
        return rows

    def _row(self, value: Any) -> int:
        rows = (self._rows.get(one, -1) for one in self._read(value))
        row = next((row for row in rows if row >= 0), -1)
        if row < 0 and _is_text(self.kind) and self._whole is not None:
            return self._whole.get(_whole_number(value), -1)
        return row

    @functools.cached_property
    def _rows(self) -> Mapping[Hashable, int]:
        ids = self._column.to_pylist()
        return {one: row for row, one in enumerate(ids)}

    @functools.cached_property
    def _whole(self) -> Mapping[int | None, int] | None:
        """Rows by number, where all ids are texts such as 3.0, which a data frame
        makes of integers beside empty cells; else None."""
        if not _all_match(self._column, _WHOLE.pattern):
            return None
        ids = self._column.to_pylist()
        rows = {_whole_number(one): row for row, one in enumerate(ids)}
        return rows if len(rows) == len(ids) else None


def distinct_values(column: np.ndarray | pd.Series | pd.Index) -> tuple[list, Any]:
    """Returns the distinct values of a column, and which of them stands in each row.

    The number of a missing value is -1. Values that cannot be hashed are kept apart.
    """
    try:
        codes, distinct = pd.factorize(column)
        return pd.Index(distinct).tolist(), codes
    except TypeError:
        return list(column), np.arange(len(column))


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """Which distinct value stands in each row, -1 for null; and how many there are."""
    found = column.combine_chunks().dictionary_encode()
    codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64), len(found.dictionary)


def typed_ids(text: str) -> list[str]:
    """Returns the ids of a command line: between commas, in quotes if one holds one.

    What stands in quotes is taken as it is, and a quote in it is doubled. Spaces
    around ids without quotes are left out, and so is what is empty then.
    """
    fields = [match.groups() for match in _TYPED.finditer(text)]
    quoted_or_stripped = [
        plain.strip() or None if quoted is None else quoted.replace('""', '"')
        for quoted, plain in fields
    ]
    return [one for one in quoted_or_stripped if one is not None]


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
    if pa.types.is_time(kind):
        return _as_time
    return _as_text


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    """Whether every text of a column is of a pattern; nulls are not looked at."""
    matches = pc.match_substring_regex(column, f"^(?:{pattern})$")
    return bool(pc.all(matches).as_py())


def _whole_number(value: Any) -> int | None:
    """The integer that a value is, or that a text without spaces spells."""
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return None if match is None else int(match[1])
    number = _number(value)
    return None if number is None or number != int(number) else int(number)


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
    """Returns values of a file as ids of another type, null where they are none.

    Args:
        column: of any type.
        kind: of the ids.
    """
    if column.type == kind:
        return column
    with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _cast(column, kind)
    read, codes = reader(kind), column.combine_chunks().dictionary_encode()
    values = codes.dictionary.to_pylist()
    ids = pa.array([_scalar(read(value), kind) for value in values], kind)
    return pa.chunked_array([ids.take(codes.indices)], kind)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Casts a column whole, as values one by one would be.

    Raises:
        ArrowInvalid: they have to be looked at one by one.
    """
    if _is_text(kind):
        return column.cast(pa.string()).cast(kind)
    if _is_text(column.type) and _all_match(column, _WHOLE.pattern):
        column = pc.replace_substring_regex(column, r"\.0+$", "").cast(pa.int64())
    if _is_number(column.type) and _is_number(kind):
        numbers = column.cast(kind)
        if pc.all(pc.is_finite(numbers)).as_py():
            return numbers
    raise pa.ArrowInvalid(f"{column.type} is not cast to {kind}")


def _scalar(candidates: Sequence[Hashable], kind: pa.DataType) -> Any:
    """The first of candidates, if the type holds just that."""
    with contextlib.suppress(
        pa.ArrowException, OverflowError, decimal.DecimalException
    ):
        for one in candidates:
            found = pa.scalar(one, kind).as_py()
            return found if found == one else None
    return None
