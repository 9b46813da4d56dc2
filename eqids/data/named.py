"""Files of items to add or to retire."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from eqids.config import require
from eqids.data.files import read_npy
from eqids.data.revise import ids_of, spelled_like
from eqids.data.tables import ROW, engine, reading, table_of_file


@dataclass(frozen=True, eq=False)
class NamedItems:
    """Items of a file, in its order."""

    table: pa.Table
    """Columns item, title and text, as in `items.parquet`."""
    similar: Sequence[np.ndarray] | None
    """The ids of what each item resembles, or None where no column says."""

    @property
    def ids(self) -> np.ndarray:
        """Item ids [item], as a catalog holds them."""
        return ids_of(self.table["item"])


def read_items(
    path: Path,
    kind: pa.DataType,
    item: str,
    title: str | None = None,
    text: str | None = None,
    similar: str | None = None,
) -> NamedItems:
    """Reads items from a CSV or Parquet file.

    Args:
        path: the file.
        kind: the type of the catalog's ids.
        item: the column of ids.
        title: the column of titles, by default `title` if there is one; without it,
            or where it is empty, the id.
        text: the column of texts, by default `text` if there is one; without it, or
            where it is empty, the title if there is one.
        similar: the column of similar items, lists or text, by default `similar` if
            there is one.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    table = _read(path, item)
    require(table.num_rows > 0, f"{path} has no rows, wanted items")
    title = _named(path, table, title, "title")
    text = _named(path, table, text, "text")
    similar = _named(path, table, similar, "similar")
    _require_plain(path, table, (item, title, text))
    ids = table[item].combine_chunks()
    require(
        ids.null_count == 0,
        f"{path}: column {item!r} is empty in {ids.null_count} rows, wanted a value in "
        "every row",
    )
    ids = spelled_like(table[item], kind)
    given = _texts(table, title)
    spelled = ids.cast(pa.string()).to_pylist()
    titles = [name or one for name, one in zip(given, spelled, strict=True)]
    texts = [x or y for x, y in zip(_texts(table, text), given, strict=True)]
    named = pa.table({"item": ids, "title": titles, "text": texts})
    if similar not in table.column_names:
        return NamedItems(named, None)
    return NamedItems(named, _similar(path, table[similar], kind))


def read_vectors(path: Path, num_items: int, width: int) -> np.ndarray:
    """Reads item vectors, float32 [item, vector_width], from a `.npy` file.

    Args:
        path: the file.
        num_items: how many there must be.
        width: the size that they must have.

    Raises:
        UserError: if it is no such file.
    """
    vectors = read_npy(path)
    require(
        vectors.shape == (num_items, width) and vectors.dtype.kind == "f",
        f"{path} holds {vectors.dtype}{list(vectors.shape)}, wanted vectors "
        f"float32[{num_items}, {width}], one for each item",
    )
    require(bool(np.isfinite(vectors).all()), f"{path} has values that are not finite")
    return vectors.astype(np.float32)


def _read(path: Path, item: str) -> pa.Table:
    with engine() as reader:
        table = table_of_file(reader, path, [item])
        require(
            item in table,
            f"{path} has no column {item!r}: it has {table.listed()}; name the right "
            "one with --item_column",
        )
        with reading(path):
            rows = table.table.order_by(ROW).drop(ROW).to_pyarrow()
        return rows.rename_columns(list(table.columns))


def _named(path: Path, table: pa.Table, given: str | None, default: str) -> str:
    """The name of a column: one that is asked for must be there."""
    require(
        given is None or given in table.column_names,
        f"{path} has no column {given!r}: it has {', '.join(table.column_names)}; name "
        f"the right one with --{default}_column",
    )
    return default if given is None else given


def _require_plain(path: Path, table: pa.Table, names: Sequence[str]) -> None:
    for field in table.schema:
        require(
            field.name not in names or not pa.types.is_nested(field.type),
            f"{path}: column {field.name!r} is {field.type}, wanted one value in every "
            "row",
        )


def _texts(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        return [""] * table.num_rows
    return [text or "" for text in table[name].cast(pa.string()).to_pylist()]


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
