"""Reads files of items to add or to retire."""

import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int64

from eqids.config import UserError, require
from eqids.data.catalog.revise import ids_of
from eqids.data.files import read_npy
from eqids.data.ids import Ids, shown
from eqids.data.info import TextsInfo
from eqids.data.raw.cells import Cells, without_nulls
from eqids.data.raw.engine import engine, reading
from eqids.data.raw.item_rows import (
    ItemRows,
    distinct_items,
    item_rows,
    require_column,
    require_held,
    with_year,
)
from eqids.data.raw.tables import FileTable, table_of_file
from eqids.data.raw.template import cell_of, field, text_of


@dataclass(frozen=True, eq=False)
class NamedItems:
    """The items that a file names, each once, in the file's order."""

    table: pa.Table
    """Columns item, title and text, as in `items.parquet`."""
    similar: "SimilarItems | None"
    """Similar items of each item, or None if the file has no such column."""
    num_untitled: int
    """Items whose title is empty, if the file has a column of titles."""
    item_of_row: Int64[np.ndarray, " row"]
    """The item that each row of the file names, by its row in `table`."""

    @property
    def ids(self) -> np.ndarray:
        """Item ids [item], as a catalog holds them."""
        return ids_of(self.table["item"])

    @property
    def num_repeated(self) -> int:
        """Rows that repeat another row."""
        return len(self.item_of_row) - self.table.num_rows


@dataclass(frozen=True, eq=False)
class SimilarItems:
    """Similar items of the items of a file."""

    file: Path
    """The file, for messages."""
    column: str
    """Its column of similar items."""
    ids: Sequence[Sequence[Any]]
    """Ids of the similar items of each item, as the file has them."""
    file_row: Int64[np.ndarray, " item"]
    """The row of the file of each item, from 0."""

    def rows(
        self, items: Int64[np.ndarray, " new"], existing: Ids
    ) -> list[Int64[np.ndarray, " near"]]:
        """Returns the catalog's rows of the similar items of some items.

        Args:
            items: rows of the items in `NamedItems.table`.
            existing: the ids of the catalog.

        Raises:
            UserError: one is not in the catalog; the message names the first, and its
                row.
        """
        chosen = [self.ids[one] for one in items.tolist()]
        flat = [one for ids in chosen for one in ids]
        rows = existing.find(flat)
        ends = np.cumsum([len(ids) for ids in chosen])
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            item = items[np.searchsorted(ends, unknown[0], side="right")]
            more = f", and neither are {len(unknown) - 1:,} others"
            raise UserError(
                f"{self.file}: column {self.column!r} names "
                f"{shown(flat[unknown[0]])} in row {self.file_row[item] + 1}: item "
                f"{shown(flat[unknown[0]])} is not in the catalog, whose ids are "
                f"{existing.kind}{more if len(unknown) > 1 else ''}; wanted ids of "
                "items that it holds"
            )
        return np.split(rows, ends[:-1])


def read_items(
    path: Path,
    existing: Ids,
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
        existing: the ids of the catalog.
        item: the column of ids.
        title: the column of titles. The default is that of `texts`, or else `title`
            if the file has it. An item without a title gets its id as title.
        text: the template of texts. The default is that of `texts`, or else the
            column `text` or that of titles, if the file has one of them.
        similar: the column of similar items, lists or text. The default is `similar`
            if the file has it.
        texts: how the texts of the catalog's items were made. Without it, items with
            an empty text get their title as text.
        said: where `texts` comes from, for messages.

    Raises:
        UserError: the file is invalid; the message names the file and the fault.
    """
    with engine() as reader:
        table = table_of_file(reader, path, [item])
        require_column(table, item)
        title = _title_column(path, table, title, texts)
        similar = _named(path, table, similar, "similar")
        made = texts or _default_texts(table, title)
        if text is not None:
            made, said = replace(made, template=text), "--text"
        near = {}
        if similar in table:
            near = {"similar": without_nulls(table[similar], made.null_values)}
        rows = _rows(path, table, item, title, made, said, near)
        with reading(path):
            found = distinct_items(reader.con, rows, existing)
            first = found.table.order_by("row").to_pyarrow()
    row = first["row"].to_numpy()
    ids = found.ids.take(row)
    require_held(path, item, first["id"], ids, row)
    titles, made_texts = first["title"], first["text"]
    if texts is None:
        made_texts = pc.if_else(pc.equal(made_texts, ""), titles, made_texts)
    untitled = pc.equal(titles, "")
    num_untitled = 0 if title is None else int(pc.sum(untitled).as_py())
    titles = pc.if_else(untitled, ids.cast(pa.string()), titles)
    named = pa.table({"item": ids, "title": titles, "text": made_texts})
    resembled = None
    if near:
        resembled = SimilarItems(path, similar, _similar(path, first["similar"]), row)
    codes = np.unique(found.number, return_inverse=True)[1]
    item_of_row = np.argsort(codes[row])[codes]
    return NamedItems(named, resembled, num_untitled, item_of_row)


def read_vectors(
    path: Path, items: Path, item_of_row: Int64[np.ndarray, " row"], width: int
) -> Float32[np.ndarray, "item vector_width"]:
    """Reads item vectors from a `.npy` file.

    Args:
        path: the file.
        items: the file of items with as many rows, for messages.
        item_of_row: see `NamedItems`.
        width: the size that the vectors must have.

    Raises:
        UserError: the file is no `.npy` file, or two rows of one item differ.
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


def _title_column(
    path: Path, table: FileTable, title: str | None, texts: TextsInfo | None
) -> str | None:
    if title is not None:
        return _named(path, table, title, "title")
    wanted = ["title"] if texts is None else [texts.title_column, "title"]
    return next((name for name in wanted if name in table), None)


def _default_texts(table: FileTable, title: str | None) -> TextsInfo:
    """The template of a catalog that records none."""
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
    cells = Cells(table, texts.null_values)
    columns: ChainMap[str, Any] = ChainMap({}, cells)  # type: ignore[arg-type]
    shown = None
    if title is not None:
        shown = columns[texts.title_column] = cell_of(path, title, cells[title])
        if texts.year_in_title:
            year = columns.get("year")
            year = None if year is None else cell_of(path, "year", year)
            columns.update(with_year(shown, year))
            shown = text_of("{title} ({year})", path, columns)
    return item_rows(
        path, table.table, item, table[item], shown, texts, columns, said, **beside
    )


def _named(path: Path, table: FileTable, given: str | None, default: str) -> str:
    """The given name of a column, which the file must have, or the default."""
    require(
        given is None or given in table,
        f"{path} has no column {given!r}: it has {table.listed()}; name the right "
        f"one with --{default}_column",
    )
    return default if given is None else given


def _similar(path: Path, column: pa.ChunkedArray) -> list[list[Any]]:
    """Lists of ids, or texts of ids between commas or spaces, as lists."""
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
    # NaN, which a data frame has in empty cells, is not equal to itself.
    return [
        [one for one in row if one not in ("", None) and one == one] for row in rows
    ]
