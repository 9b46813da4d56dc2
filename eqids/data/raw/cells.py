"""Reads cells of a file of items: empty cells, and numbers that are spelled as text.

Parquet files give columns a type. In CSV and RecBole files a column holds numbers if
every cell spells one, is empty or is one of `NULL_WORDS`, which then mean an empty
cell. A number has the same text in all kinds of files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.data.raw.engine import reading
from eqids.data.raw.raw_files import is_parquet
from eqids.data.raw.tables import FileTable

NULL_WORDS = (
    "", "null", "(null)", "<null>", "[null]", "none", "nan", "-nan", "1.#qnan",
    "-1.#qnan", "1.#ind", "-1.#ind", "na", "n/a", "#na", "#n/a", "#n/a n/a", "<na>",
    "nat", "nil", "\\n", "undefined", "unknown", "missing", "#null!", "#ref!",
    "#value!", "#num!", "#name?", "#div/0!", "-", "--", "?", ".",
)  # fmt: skip
"""Texts for a missing value in databases, data frames and spreadsheets, lower case."""
# `007` is text, not a number.
_INTEGER = "^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"


class Cells(Mapping[str, Any]):
    """The columns of a file of items by name, as a template shows them."""

    def __init__(self, table: FileTable, null_values: Sequence[str]):
        """Wraps a file.

        Args:
            table: its columns.
            null_values: texts that mean an empty cell.
        """
        self._table = table
        self._null_values = null_values
        self._spelled = not is_parquet(table.file)
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Returns a column; spelled numbers become the text of the number.

        Raises:
            KeyError: no column has this name.
            UserError: two columns have this name, or the file cannot be read.
        """
        if name not in self._read:
            column = without_nulls(self._table[name], self._null_values)
            if self._spelled and self._holds_numbers(column):
                column = _shown(column)
            self._read[name] = column
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        """Yields each name once."""
        return iter(self._table)

    def __len__(self) -> int:
        """Returns the number of different names."""
        return len(self._table)

    def _holds_numbers(self, column: Any) -> bool:
        other = column.notnull() & ~is_word(column)
        text = column.strip()
        number = text.re_search(_NUMBER) & (text.try_cast("float64").abs() < 1e300)
        counts = {"others": other.sum(), "numbers": (other & number).sum()}
        with reading(self._table.file):
            found = self._table.table.aggregate(**counts).to_pyarrow().to_pylist()[0]
        return 0 < (found["others"] or 0) == (found["numbers"] or 0)


def without_nulls(column: Any, null_values: Sequence[str]) -> Any:
    """Returns a column in which texts that mean an empty cell are null.

    Args:
        column: a column of any type.
        null_values: those texts.
    """
    if not isinstance(column, ir.StringValue) or not null_values:
        return column
    return ibis.ifelse(column.isin(list(null_values)), ibis.null("string"), column)


def is_word(column: Any) -> Any:
    """Returns the expression of whether a cell is a text of `NULL_WORDS`."""
    if not isinstance(column, ir.StringValue):
        return ibis.literal(False)
    return column.strip().lower().isin(list(NULL_WORDS)).fill_null(False)


def _shown(column: Any) -> Any:
    """Spelled numbers as `cell_of` shows floats; integers of any length are kept."""
    text = column.strip()
    shown = text.try_cast("float64").cast("string").re_replace(r"\.0$", "")
    shown = ibis.ifelse(text.re_search(_INTEGER), text, shown)
    return ibis.ifelse(is_word(column), ibis.null("string"), shown)
