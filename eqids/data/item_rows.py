"""Rows of a file that names items: each id once, and what was dropped is counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from eqids.config import UserError, require
from eqids.data.info import TextsInfo
from eqids.data.tables import ROW
from eqids.data.template import text_of

_SHOWN = 200
"""Letters of a value that a message shows."""


@dataclass(frozen=True)
class ItemRows:
    """A file that names items, unread."""

    file: Path
    """The file, for messages."""
    item_column: str
    """Its column of ids."""
    table: ir.Table
    """id (as the file has it), `row` in the file's order, from 0, title and text
    (empty where the file has none), and other columns that rows of one id must agree
    in."""
    texts: TextsInfo | None = None
    """What titles and texts are made of."""


@dataclass(frozen=True)
class DistinctItems:
    """A file that names items, read, each id once."""

    table: ir.Table
    """The columns of `ItemRows.table`, the first row of each id, and `key`, the id as
    text."""
    every: ir.Table
    """`key` and `row` of all rows."""
    num_rows: int
    """Rows of the file."""
    num_repeated: int
    """Rows that say what another row has said, which are left out."""


def with_year(title: Any, year: Any | None = None) -> dict[str, Any]:
    """The columns title and year of titles that may end in their year, '(1995)'.

    Args:
        title: the texts of titles.
        year: the texts of years, where there are any; they come before what titles say.
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
        file: for messages.
        table: the file, with `ROW`.
        item_column: the name of the column of ids, for messages.
        ids: that column.
        title: the texts of titles, see `cell_of`, or none.
        texts: the template.
        columns: what it may name.
        said: where it comes from, for messages.
        beside: other columns that rows of one id must agree in, by name.

    Raises:
        UserError: the template names what is not there, or a column holds no texts.
    """
    title = ibis.literal("") if title is None else title.fill_null("")
    text = ibis.literal("")
    if texts.template:
        text = text_of(texts.template, file, columns, said)
    rows = table.select(id=ids, title=title, text=text, row=table[ROW], **beside)
    return ItemRows(file, item_column, rows, texts)


def distinct_items(con: Any, rows: ItemRows) -> DistinctItems:
    """Reads a file that names items.

    Ids are one if they are spelled alike: 1, 01 and 1.0 are three.

    Args:
        con: an Ibis connection to DuckDB.
        rows: the file.

    Raises:
        UserError: naming a row without an id, or two rows of one id that contradict
            each other.
    """
    keyed = rows.table.mutate(key=rows.table["id"].cast("string"))
    table = con.create_table(ibis.util.gen_name("items"), keyed, temp=True)
    _require_ids(rows, table)
    sizes = table.group_by("key").aggregate(size=table.count())
    # Few ids are there twice: only their rows are compared.
    twice = table.semi_join(sizes.filter(sizes["size"] > 1), "key")
    twice = con.create_table(ibis.util.gen_name("twice"), twice, temp=True)
    _require_same(rows, twice)
    first = twice.group_by("key").aggregate(row=twice["row"].min())
    again = twice.anti_join(first, "row")
    kept, every = table.anti_join(again, "row"), table.select("key", "row")
    return DistinctItems(kept, every, _count(table), _count(again))


def _count(table: ir.Table) -> int:
    return int(table.count().to_pyarrow().as_py())


def _differ(table: ir.Table, column: Any) -> Any:
    """Whether the values of a group are more than one, an empty cell being one."""
    some_empty = (column.count() > 0) & (column.count() < table.count())
    return some_empty | (column.min() != column.max()).fill_null(False)


def _require_ids(rows: ItemRows, table: ir.Table) -> None:
    empty = table["id"].isnull()
    if table["id"].type().is_floating():
        empty = empty | table["id"].isnan()
    found = table.aggregate(row=table["row"].min(where=empty), number=empty.sum())
    row, number = (found.to_pyarrow()[name][0].as_py() for name in ("row", "number"))
    more = f" and in {number - 1:,} others" if number and number > 1 else ""
    require(
        row is None,
        f"{rows.file}: column {rows.item_column!r} is empty in row {(row or 0) + 1}"
        f"{more}, wanted an item id in every row: mend or delete them",
    )


def _require_same(rows: ItemRows, twice: ir.Table) -> None:
    """Requires that rows of one id say the same."""
    names = [n for n in twice.columns if n not in ("id", "key", "row")]
    apart = [_differ(twice, twice[name]) for name in names]
    groups = twice.group_by("key").aggregate(
        row=twice["row"].min(), apart=ibis.or_(ibis.literal(False), *apart)
    )
    first = groups.filter(groups["apart"]).order_by("row").limit(1).to_pyarrow()
    if not first.num_rows:
        return
    key = first["key"][0].as_py()
    same = twice.filter(twice["key"] == key).order_by("row").to_pyarrow().to_pylist()
    other = next(row for row in same if any(row[n] != same[0][n] for n in names))
    name = next(name for name in names if other[name] != same[0][name])
    raise UserError(
        f"{rows.file} says two things of item {key!r}: its {name} is "
        f"{_short(same[0][name])} in row {same[0]['row'] + 1} and "
        f"{_short(other[name])} in row {other['row'] + 1}; delete one of the two"
    )


def _short(value: Any) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
