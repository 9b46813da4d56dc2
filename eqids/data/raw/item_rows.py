"""Reads a file that names items: each id once, repeated rows dropped and counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from eqids.config import UserError, require
from eqids.data.ids import Ids, shown
from eqids.data.info import TextsInfo
from eqids.data.raw.cells import without_nulls
from eqids.data.raw.engine import engine, reading
from eqids.data.raw.tables import ROW, FileTable, table_of_file
from eqids.data.raw.template import text_of

_SHOWN = 200
"""Most characters of a value that a message shows."""


@dataclass(frozen=True)
class ItemRows:
    """A file that names items, not read yet."""

    file: Path
    """The file, for messages."""
    item_column: str
    """Its column of ids."""
    table: ir.Table
    """id (as the file has it), `row` in the file's order, from 0, title and text
    (empty where the file has none), and other columns that rows of one id must agree
    in."""
    texts: TextsInfo | None = None
    """How titles and texts are made."""


@dataclass(frozen=True)
class DistinctItems:
    """A file that names items, read, each id once."""

    table: ir.Table
    """The columns of `ItemRows.table`, the first row of each id, and `number`."""
    number: np.ndarray
    """int64 [row of the file]: which item each row names, see `Ids.number`."""
    ids: pa.ChunkedArray
    """Ids [row of the file] of the type of the existing ids, null for a value that is
    no such id."""
    num_repeated: int
    """Rows that repeat another row and are left out."""

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return len(self.number)


def with_year(title: Any, year: Any | None = None) -> dict[str, Any]:
    """Returns columns title and year of titles that may end in their year, '(1995)'.

    Args:
        title: the texts of titles.
        year: the texts of years, which override the years in titles; or none.
    """
    ending = r"\s*\((\d{4})\)\s*$"
    found = title.re_extract(ending, 1)
    if year is not None:
        found = ibis.ifelse(year == "", found, year)
    return {"title": title.re_replace(ending, ""), "year": found}


def item_rows(
    file: Path,
    table: ir.Table,
    item_column: str,
    ids: Any,
    title: Any | None,
    texts: TextsInfo,
    columns: Mapping[str, Any],
    said: str = "--text",
    **beside: Any,
) -> ItemRows:
    """Returns the rows of a file, with the texts that a template makes.

    Args:
        file: the file's name, for messages.
        table: the file, with `ROW`.
        item_column: the name of the column of ids, for messages.
        ids: that column.
        title: the texts of titles, see `cell_of`, or none.
        texts: the template.
        columns: the columns that it may name.
        said: where the template comes from, for messages.
        beside: other columns, by name, in which rows of one id must agree.

    Raises:
        UserError: the template names no column, or a column holds no texts.
    """
    title = ibis.literal("") if title is None else title.fill_null("")
    text = ibis.literal("")
    if texts.template:
        text = text_of(texts.template, file, columns, said)
    ids = without_nulls(ids, texts.null_values)
    rows = table.select(id=ids, title=title, text=text, row=table[ROW], **beside)
    return ItemRows(file, item_column, rows, texts)


def distinct_items(con: Any, rows: ItemRows, existing: Ids) -> DistinctItems:
    """Reads a file that names items.

    Args:
        con: an Ibis connection to DuckDB.
        rows: the file.
        existing: ids of the items of events or of a catalog; two values of the file
            are one id if they are equal as ids of that type.

    Raises:
        UserError: the file has no rows, a row without an id, or two rows of one id that
            contradict each other; the message names them.
    """
    table = con.create_table(ibis.util.gen_name("items"), rows.table, temp=True)
    given = table.order_by("row").select("row", "id").to_pyarrow()
    require_ids(rows.file, rows.item_column, given["id"])
    number, ids = existing.number(given["id"])
    numbers: Any = pa.table({"row": given["row"], "number": number})
    name = ibis.util.gen_name("numbers")
    # Ibis 12 creates Arrow tables with SQL that DuckDB 2 does not support.
    con.con.register(name, numbers)
    numbers = con.table(name)
    table = table.join(numbers, "row")
    sizes = numbers.group_by("number").aggregate(size=numbers.count())
    # Few ids occur twice: only their rows are compared.
    twice = table.semi_join(sizes.filter(sizes["size"] > 1), "number")
    twice = con.create_table(ibis.util.gen_name("twice"), twice, temp=True)
    _require_same(rows, twice)
    first = twice.group_by("number").aggregate(row=twice["row"].min())
    again = twice.anti_join(first, "row")
    return DistinctItems(table.anti_join(again, "row"), number, ids, _count(again))


def read_ids(path: Path, item_column: str) -> pa.ChunkedArray:
    """Reads the column of ids of a file of items, in the file's order.

    Raises:
        UserError: the file cannot be read, lacks the column, has no rows, or has a row
            without an id.
    """
    with engine() as reader:
        table = table_of_file(reader, path, [item_column])
        require_column(table, item_column)
        with reading(path):
            rows = table.table.order_by(ROW).select(id=table[item_column])
            ids = rows.to_pyarrow()["id"]
    require_ids(path, item_column, ids)
    return ids


def require_column(table: FileTable, item_column: str) -> None:
    """Requires that a file has a column of ids.

    Raises:
        UserError: it has no such column, or one of another type; the message names the
            columns or the type.
    """
    require(
        item_column in table,
        f"{table.file} has no column {item_column!r}: it has {table.listed()}; name "
        "the right one with --item_column",
    )
    kind = table[item_column].type()
    require(
        not (kind.is_nested() or kind.is_binary()),
        f"{table.file}: column {item_column!r} is {kind}, wanted one value in every "
        "row",
    )


def require_ids(file: Path, item_column: str, ids: pa.ChunkedArray) -> None:
    """Requires rows, and an id in each of them.

    Raises:
        UserError: rows lack an id; the message names the first, and their number.
    """
    require(len(ids) > 0, f"{file} has no rows, wanted items")
    empty = np.flatnonzero(ids.is_null(nan_is_null=True))
    require(
        not len(empty),
        f"{file}: column {item_column!r} is empty in {_rows(empty)}, wanted an item id "
        "in every row: mend or delete them",
    )


def require_held(
    file: Path,
    item_column: str,
    given: pa.ChunkedArray,
    ids: pa.ChunkedArray,
    row: np.ndarray,
) -> None:
    """Requires that all values are ids of a catalog's type.

    Args:
        file: the file's name, for messages.
        item_column: the name of its column of ids, for messages.
        given: values [item] of the file.
        ids: the same values as ids, null for a value that is no id.
        row: int [item], of the file.

    Raises:
        UserError: values are no ids; the message names the first row, and their number.
    """
    wrong = np.flatnonzero(ids.is_null())
    if len(wrong):
        value = given[int(wrong[0])].as_py()
        raise UserError(
            f"{file}: column {item_column!r} is {shown(value)} in {_rows(row[wrong])}, "
            f"wanted ids of the catalog's type, {ids.type}: mend or delete them"
        )


def _rows(places: np.ndarray) -> str:
    """Names the first of some rows, and how many others there are."""
    first = f"row {int(places[0]) + 1}" if len(places) else ""
    return first + (f" and in {len(places) - 1:,} others" if len(places) > 1 else "")


def _count(table: ir.Table) -> int:
    return int(table.count().to_pyarrow().as_py())


def _differ(table: ir.Table, column: Any) -> Any:
    """Whether a group has more than one value; an empty cell is a value."""
    some_empty = (column.count() > 0) & (column.count() < table.count())
    return some_empty | (column.min() != column.max()).fill_null(False)


def _require_same(rows: ItemRows, twice: ir.Table) -> None:
    """Requires that rows of one id are equal."""
    names = [n for n in twice.columns if n not in ("id", "number", "row")]
    apart = [_differ(twice, twice[name]) for name in names]
    groups = twice.group_by("number").aggregate(
        row=twice["row"].min(), apart=ibis.or_(ibis.literal(False), *apart)
    )
    first = groups.filter(groups["apart"]).order_by("row").limit(1).to_pyarrow()
    if not first.num_rows:
        return
    number = first["number"][0].as_py()
    same = (
        twice.filter(twice["number"] == number).order_by("row").to_pyarrow().to_pylist()
    )
    other = next(row for row in same if any(row[n] != same[0][n] for n in names))
    name = next(name for name in names if other[name] != same[0][name])
    raise UserError(
        f"{rows.file} says two things of item {shown(same[0]['id'])}: its {name} is "
        f"{_short(same[0][name])} in row {same[0]['row'] + 1} and "
        f"{_short(other[name])} in row {other['row'] + 1}; delete one of the two"
    )


def _short(value: Any) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
