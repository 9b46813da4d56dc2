"""Files of items to add or to retire."""

import contextlib
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eqids.config import require
from eqids.data.engine import engine, reading
from eqids.data.files import read_npy
from eqids.data.info import TextsInfo
from eqids.data.item_rows import ItemRows, distinct_items, item_rows, with_year
from eqids.data.revise import ids_of, spelled_like
from eqids.data.tables import ROW, FileTable, table_of_file
from eqids.data.template import cell_of, field, text_of


@dataclass(frozen=True, eq=False)
class NamedItems:
    """Items of a file, each once, in its order."""

    table: pa.Table
    """Columns item, title and text, as in `items.parquet`."""
    similar: Sequence[np.ndarray] | None
    """The ids of what each item resembles, or None where no column says."""
    num_untitled: int
    """Items that a column of titles gives none."""
    item_of_row: np.ndarray
    """int64 [row of the file]: the item that it names, by its place in `table`."""

    @property
    def ids(self) -> np.ndarray:
        """Item ids [item], as a catalog holds them."""
        return ids_of(self.table["item"])

    @property
    def num_repeated(self) -> int:
        """Rows that say what another row has said."""
        return len(self.item_of_row) - self.table.num_rows


def read_items(
    path: Path,
    kind: pa.DataType,
    item: str,
    title: str | None = None,
    text: str | None = None,
    similar: str | None = None,
    texts: TextsInfo | None = None,
    said: str = "--text",
) -> NamedItems:
    """Reads items from a CSV or Parquet file.

    Args:
        path: the file.
        kind: the type of the catalog's ids.
        item: the column of ids.
        title: the column of titles, by default that of `texts`, or else `title`, if
            there is one; without it, or where it is empty, the id.
        text: the template of texts, by default that of `texts`, or else the column
            `text` or the title, if there is one.
        similar: the column of similar items, lists or text, by default `similar` if
            there is one.
        texts: what the texts of the catalog's items are made of. Where nothing is
            known of that, items with an empty text get their title, if there is one.
        said: where `texts` come from, for messages.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    with _opened(path, item) as (con, table):
        title = _title_column(path, table, title, texts)
        similar = _named(path, table, similar, "similar")
        made = texts or _default_texts(table, title)
        if text is not None:
            made, said = replace(made, template=text), "--text"
        near = {"similar": table[similar]} if similar in table else {}
        rows = _rows(path, table, item, title, made, said, near)
        with reading(path):
            found = distinct_items(con, rows)
            first = found.table.order_by("row").to_pyarrow()
            keys = found.every.order_by("row").to_pyarrow()["key"]
    require(first.num_rows > 0, f"{path} has no rows, wanted items")
    ids, titles = spelled_like(first["id"], kind), first["title"]
    made_texts = first["text"]
    if texts is None:
        made_texts = pc.if_else(pc.equal(made_texts, ""), titles, made_texts)
    untitled = pc.equal(titles, "")
    num_untitled = 0 if title is None else int(pc.sum(untitled).as_py())
    titles = pc.if_else(untitled, ids.cast(pa.string()), titles)
    named = pa.table({"item": ids, "title": titles, "text": made_texts})
    ids_near = _similar(path, first["similar"], kind) if near else None
    place = pc.index_in(keys, value_set=first["key"].combine_chunks())
    return NamedItems(named, ids_near, num_untitled, place.to_numpy().astype(np.int64))


def read_ids(path: Path, kind: pa.DataType, item: str) -> tuple[np.ndarray, int]:
    """Reads the ids of items from a CSV or Parquet file.

    Args:
        path: the file.
        kind: the type of the catalog's ids.
        item: the column of ids.

    Returns:
        Item ids [item] as a catalog holds them, each once, and the number of rows
        that repeat one.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    with _opened(path, item) as (con, table), reading(path):
        rows = ItemRows(path, item, table.table.select(id=table[item], row=ROW))
        found = distinct_items(con, rows)
        ids = found.table.order_by("row").to_pyarrow()["id"]
    require(len(ids) > 0, f"{path} has no rows, wanted items")
    return ids_of(spelled_like(ids, kind)), found.num_repeated


def read_vectors(
    path: Path, items: Path, item_of_row: np.ndarray, width: int
) -> np.ndarray:
    """Reads item vectors, float32 [item, vector_width], from a `.npy` file.

    Args:
        path: the file.
        items: the file of items whose rows its rows belong to, for messages.
        item_of_row: int [row of the file], see `NamedItems`.
        width: the size that the vectors must have.

    Raises:
        UserError: if it is no such file, or two rows of one item differ.
    """
    vectors = read_npy(path)
    require(
        vectors.shape == (len(item_of_row), width) and vectors.dtype.kind == "f",
        f"{path} holds {vectors.dtype}{list(vectors.shape)}, wanted vectors "
        f"float32[{len(item_of_row)}, {width}], one for each row of {items}",
    )
    require(bool(np.isfinite(vectors).all()), f"{path} has values that are not finite")
    first = np.unique(item_of_row, return_index=True)[1]
    differ = (vectors != vectors[first[item_of_row]]).any(axis=1)
    row = int(np.argmax(differ))
    require(
        not differ.any(),
        f"{path} has two vectors for one item, in rows {first[item_of_row[row]] + 1} "
        f"and {row + 1}, which {items} gives the same id; delete one of the two",
    )
    return vectors[first].astype(np.float32)


@contextlib.contextmanager
def _opened(path: Path, item: str) -> Iterator[tuple[Any, FileTable]]:
    """A connection to DuckDB and a file as a table of it."""
    with engine() as reader:
        table = table_of_file(reader, path, [item])
        require(
            item in table,
            f"{path} has no column {item!r}: it has {table.listed()}; name the right "
            "one with --item_column",
        )
        kind = table[item].type()
        require(
            not (kind.is_nested() or kind.is_binary()),
            f"{path}: column {item!r} is {kind}, wanted one value in every row",
        )
        yield reader.con, table


def _title_column(
    path: Path, table: FileTable, title: str | None, texts: TextsInfo | None
) -> str | None:
    if title is not None:
        return _named(path, table, title, "title")
    wanted = ["title"] if texts is None else [texts.title_column, "title"]
    return next((name for name in wanted if name in table), None)


def _default_texts(table: FileTable, title: str | None) -> TextsInfo:
    """Texts of a catalog of which nothing is said."""
    template = "" if title is None else field(title)
    if "text" in table:
        template = field("text")
    return TextsInfo(template, title or "title")


def _rows(
    path: Path,
    table: FileTable,
    item: str,
    title: str | None,
    texts: TextsInfo,
    said: str,
    beside: Mapping[str, Any],
) -> ItemRows:
    """The rows of a file, with titles and texts as `prepare` makes them."""
    columns: ChainMap[str, Any] = ChainMap({}, table)  # type: ignore[arg-type]
    shown = None
    if title is not None:
        shown = columns[texts.title_column] = cell_of(path, title, table[title])
        if texts.year_in_title:
            year = columns.get("year")
            year = None if year is None else cell_of(path, "year", year)
            columns.update(with_year(shown, year))
            shown = text_of("{title} ({year})", path, columns)
    return item_rows(
        path, table.table, item, table[item], shown, texts, columns, said, **beside
    )


def _named(path: Path, table: FileTable, given: str | None, default: str) -> str:
    """The name of a column: one that is asked for must be there."""
    require(
        given is None or given in table,
        f"{path} has no column {given!r}: it has {table.listed()}; name the right "
        f"one with --{default}_column",
    )
    return default if given is None else given


def _similar(
    path: Path, column: pa.ChunkedArray, kind: pa.DataType
) -> Sequence[np.ndarray]:
    inside = getattr(column.type, "value_type", column.type)
    require(
        not pa.types.is_nested(inside),
        f"{path}: similar items are {column.type}, wanted ids, lists of them, or text",
    )
    rows = [
        re.split(r"[,\s]+", row.strip(", \t")) if isinstance(row, str) else row
        for row in column.to_pylist()
    ]
    rows = [row if isinstance(row, list) else [row] for row in rows]
    rows = [[one for one in row if one not in ("", None)] for row in rows]
    flat = pa.chunked_array([pa.array([one for row in rows for one in row])])
    if not len(flat):
        return [np.zeros(0, object) for _ in rows]
    ends = np.cumsum([len(row) for row in rows])
    return np.split(ids_of(spelled_like(flat, kind)), ends[:-1])
