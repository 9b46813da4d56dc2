"""Item and user ids of a column, found by values of any type; see `id_values`."""

import functools
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from eqids.data.id_values import (
    WHOLE,
    all_match,
    as_ids,
    id_reader,
    is_text,
    whole_number,
)

_TYPED = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^,\r\n]*))(?:[,\r\n]|\Z)')


class Ids:
    """The ids of a column, which finds ids of any type and spelling."""

    def __init__(self, column: pa.ChunkedArray):
        """Indexes the ids.

        Args:
            column: ids, each once.
        """
        self.kind = column.type
        self._column = column
        self._read = id_reader(self.kind)

    def find(
        self, values: Iterable[Any] | pa.ChunkedArray
    ) -> Int64[np.ndarray, " value"]:
        """Returns the rows of ids; -1 for values that are no id of the column.

        Args:
            values: values of any type. Arrays and columns of a table are fastest.
        """
        if isinstance(values, pa.ChunkedArray):
            return self._find_column(values)
        if isinstance(values, np.ndarray | pd.Series | pd.Index):
            distinct, codes = distinct_values(values)
            # Code -1, of a missing value, gets row -1.
            return np.append(self.find(distinct), -1)[codes]
        return np.array([self._row(value) for value in values], np.int64)

    def find_one(self, value: Any) -> tuple[int, Any]:
        """Returns the row of one id, and the id as the column spells it.

        Args:
            value: a value of any type. One that is no id of the column gets row -1,
                and is spelled as the column would; None if it cannot be an id of it.
        """
        row = self._row(value)
        if row >= 0:
            return row, self._column[row].as_py()
        return row, next(iter(self._read(value)), None)

    def read(self, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
        """Reads a column of a file.

        Args:
            column: a column of any type.

        Returns:
            The rows of its ids, int64 [value], -1 for values that are no id of this
            column; and the values as ids of this type, null if they cannot be one.
        """
        rows, ids = self.find(column), as_ids(column, self.kind)
        if column.type == self.kind:
            return rows, ids
        found = self._column.take(pa.array(rows, mask=rows < 0))
        return rows, pc.coalesce(found, ids)

    def number(self, column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
        """Numbers the items that a column of a file names.

        Args:
            column: a column of any type, without nulls.

        Returns:
            The number of each value's item, int64 [value]: the row of its id, or a
            number from `len(self)` on for a new id; equal values that are no ids get
            the same number. Also the ids, see `read`.
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
        if is_text(self.kind) and not is_text(column.type):
            encoded = column.combine_chunks().dictionary_encode()
            # Code -1, of a missing value, gets row -1.
            found = np.append(self.find(encoded.dictionary.to_pylist()), -1)
            return found[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        held, own = as_ids(column, self.kind), self._column
        if pa.types.is_floating(self.kind):
            # -0.0 + 0.0 is 0.0: both are one number with different bits.
            held, own = pc.add(held, 0.0), pc.add(own, 0.0)
        rows = pc.index_in(held, value_set=own, skip_nulls=True)
        rows = rows.fill_null(-1).to_numpy().astype(np.int64)
        others = rows < 0
        if is_text(self.kind) and others.any() and self._whole is not None:
            rows[others] = self.find(column.filter(pa.array(others)).to_pylist())
        return rows

    def _row(self, value: Any) -> int:
        rows = (self._rows.get(one, -1) for one in self._read(value))
        row = next((row for row in rows if row >= 0), -1)
        if row < 0 and is_text(self.kind) and self._whole is not None:
            return self._whole.get(whole_number(value), -1)
        return row

    @functools.cached_property
    def _rows(self) -> Mapping[Hashable, int]:
        ids = self._column.to_pylist()
        return {one: row for row, one in enumerate(ids)}

    @functools.cached_property
    def _whole(self) -> Mapping[int | None, int] | None:
        """Rows by number, if all ids are texts such as 3.0 (a data frame writes
        integers so in a column with empty cells); otherwise None."""
        if not all_match(self._column, WHOLE.pattern):
            return None
        ids = self._column.to_pylist()
        rows = {whole_number(one): row for row, one in enumerate(ids)}
        return rows if len(rows) == len(ids) else None


def distinct_values(column: np.ndarray | pd.Series | pd.Index) -> tuple[list[Any], Any]:
    """Returns the distinct values of a column, and the number of each row's value.

    The number of a missing value is -1. Values that cannot be hashed are all distinct.
    """
    try:
        codes, distinct = pd.factorize(column)
        return pd.Index(distinct).tolist(), codes
    except TypeError:
        return list(column), np.arange(len(column))


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """The number of each row's distinct value, -1 for null; and how many there are."""
    found = column.combine_chunks().dictionary_encode()
    codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64), len(found.dictionary)


def typed_ids(text: str) -> list[str]:
    """Returns the ids of a command line, which commas separate.

    An id that holds a comma is quoted, and a quote inside it is doubled. Spaces around
    ids without quotes are removed, and empty ids are dropped.
    """
    fields = [match.groups() for match in _TYPED.finditer(text)]
    quoted_or_stripped = [
        plain.strip() or None if quoted is None else quoted.replace('""', '"')
        for quoted, plain in fields
    ]
    return [one for one in quoted_or_stripped if one is not None]


def shown(value: Any) -> str:
    """Returns an id as messages show it."""
    return repr(value.item() if isinstance(value, np.generic) else value)
