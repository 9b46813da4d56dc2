"""Reads the user's own item vectors from a Parquet or a `.npy` file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eqids.config import PrepareConfig, UserError, require
from eqids.data.files import read_npy
from eqids.data.ids import Ids, shown
from eqids.data.raw.item_rows import read_ids

_ROWS = 2**18
"""Rows of a file that are read at a time."""


def check_vectors(config: PrepareConfig) -> None:
    """Requires that the file of vectors exists, before anything else is read.

    Raises:
        UserError: the file does not exist.
    """
    if config.cluster_vectors not in ("interactions", "words", "text"):
        path = Path(config.cluster_vectors)
        require(path.is_file(), f"--cluster_vectors {path} is not a file that exists")


def own_vectors(
    path: Path,
    items: pa.ChunkedArray,
    config: PrepareConfig,
    report: Callable[[str], None],
) -> np.ndarray:
    """Reads the vectors that `--cluster_vectors` names, unchanged.

    Args:
        path: a Parquet file with a column of item ids and a column of lists, or
            columns of numbers; or a `.npy` file [row of --items, width].
        items: ids [item].
        config: names the columns, and the file of items that a `.npy` belongs to.
        report: receives a warning if some items have no vector.

    Returns:
        float32 [item, width]; zeros for an item without a vector.

    Raises:
        UserError: the file is invalid; the message names the file and the fault.
    """
    vectors, row_of, item_of, first_id = _vectors(path, items, config)
    seen = row_of >= 0
    require(
        bool(seen.any()),
        f"{path} has a vector for none of the {len(items):,} items, the first of which "
        f"is {shown(items[0].as_py())}; the first id of the vectors is "
        f"{shown(first_id)}",
    )
    num_used = np.count_nonzero(item_of >= 0)
    rows = f"of {len(item_of):,} rows"
    if unused := len(item_of) - num_used:
        report(f"{path}: {unused:,} {rows} belong to no item and are left out")
    if repeated := num_used - np.count_nonzero(seen):
        report(f"{path}: {repeated:,} {rows} repeat another row and are dropped")
    if not seen.all():
        report(
            f"warning: {path} has no vector for {np.count_nonzero(~seen):,} of "
            f"{len(items):,} items; theirs are zeros"
        )
    zeros = seen & ~vectors.any(axis=1)
    if zeros.any():
        first = shown(items[int(np.argmax(zeros))].as_py())
        report(
            f"warning: {path} has vectors of zeros for {np.count_nonzero(zeros):,} of "
            f"{len(items):,} items, the first of which is {first}"
        )
    return vectors


def _vectors(
    path: Path, items: pa.ChunkedArray, config: PrepareConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Vectors [item, width]; the first row [item] of each item, -1 for none; the item
    [row] of each row, -1 for none; and the first id of the file."""
    existing, first_id = Ids(items), None
    parts = _parquet_parts if path.suffix in (".parquet", ".pq") else _npy_parts
    vectors, row_of = np.zeros((0, 0), np.float32), np.full(len(existing), -1)
    item_of = [np.zeros(0, np.int64)]
    for start, ids, rows in parts(path, config):
        if not vectors.size:
            vectors = np.zeros((len(existing), rows.shape[1]), np.float32)
        _require_finite(path, rows, start)
        first_id = ids[0].as_py() if start == 0 else first_id
        place = existing.find(ids)
        item_of.append(place)
        used = np.flatnonzero(place >= 0)
        first, at = np.unique(place[used], return_index=True)
        new = row_of[first] < 0
        first, at = first[new], used[at[new]]
        vectors[first], row_of[first] = rows[at], start + at
        differ = used[(rows[used] != vectors[place[used]]).any(axis=1)]
        if len(differ):
            item, row = place[differ[0]], start + differ[0]
            raise UserError(
                f"{path} has two vectors for item {shown(items[item].as_py())}, in "
                f"rows {row_of[item] + 1} and {row + 1}, wanted one"
            )
    return vectors, row_of, np.concatenate(item_of), first_id


_Part = tuple[int, pa.ChunkedArray, np.ndarray]
"""The row that a part of a file starts at, its item ids, and its vectors."""


def _parquet_parts(path: Path, config: PrepareConfig) -> Iterator[_Part]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from None
    schema = file.schema_arrow
    column = config.item_column if config.item_column in schema.names else "item"
    require(
        column in schema.names,
        f"{path} has no column {config.item_column!r} or 'item': it has "
        f"{', '.join(schema.names)}; name the column of item ids with --item_column",
    )
    kind = schema.field(column).type
    require(
        not pa.types.is_nested(kind),
        f"{path}: column {column!r} is {kind}, wanted an item id in every row",
    )
    names = _vector_columns(path, schema, column)
    start, width = 0, 0
    for batch in file.iter_batches(_ROWS, columns=[column, *names]):
        table = pa.Table.from_batches([batch])
        _require_ids(path, table[column], column, start)
        rows = _matrix(path, table, names, start, width)
        start, width = start + len(rows), rows.shape[1]
        yield start - len(rows), table[column], rows


def _require_ids(path: Path, ids: pa.ChunkedArray, column: str, start: int) -> None:
    empty = ids.is_null(nan_is_null=True)
    row = empty.index(True).as_py()
    require(
        row < 0,
        f"{path}, row {start + row + 1}: {column!r} is empty, wanted an item id",
    )


def _vector_columns(path: Path, schema: pa.Schema, column: str) -> list[str]:
    """The one column of lists, or else all columns of numbers but the ids."""
    fields = [field for field in schema if field.name != column]
    lists = [field.name for field in fields if _is_list(field.type)]
    numbers = [f.name for f in fields if _is_number(f.type)]
    require(
        len(lists) == 1 or (not lists and bool(numbers)),
        f"{path} has {len(lists)} columns of lists and {len(numbers)} of numbers "
        f"beside {column!r}, wanted one column of lists, or columns of numbers",
    )
    return lists or numbers


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _matrix(
    path: Path, table: pa.Table, names: list[str], start: int, width: int
) -> np.ndarray:
    """float32 [row, width] of a part of the file; width 0 means that it is not known
    yet."""
    columns = [table[name].combine_chunks() for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.null_count:
            row = start + column.is_null().index(True).as_py()
            raise UserError(f"{path}, row {row + 1}: {name!r} is empty")
    if not _is_list(columns[0].type):
        matrix = np.empty((table.num_rows, len(names)), np.float32)
        for at, column in enumerate(columns):
            matrix[:, at] = column.to_numpy(zero_copy_only=False)
        return matrix
    lengths = pc.list_value_length(columns[0]).to_numpy()
    width = width or int(lengths[0])
    require(width > 0, f"{path}, row {start + 1}: {names[0]!r} is an empty list")
    _require_rows(
        path,
        lengths == width,
        start,
        lambda row: f"{names[0]!r} has {lengths[row]} numbers, wanted {width}",
    )
    flat = pc.list_flatten(columns[0]).cast(pa.float32(), safe=False)
    return flat.to_numpy(zero_copy_only=False).reshape(-1, width)


def _npy_parts(path: Path, config: PrepareConfig) -> Iterator[_Part]:
    array = read_npy(path, "r")
    assert config.items is not None
    ids = read_ids(config.items, config.item_column)
    require(
        array.ndim == 2 and array.dtype.kind in "fiu" and array.shape[1] > 0
        and len(array) == len(ids),
        f"{path} holds {array.dtype}{list(array.shape)}, wanted numbers "
        f"[{len(ids)}, width]: a vector for each row of {config.items}",
    )  # fmt: skip
    for start in range(0, len(ids), _ROWS):
        part = slice(start, start + _ROWS)
        yield start, ids[part], np.asarray(array[part], np.float32)


def _require_finite(path: Path, rows: np.ndarray, start: int) -> None:
    finite = np.isfinite(rows).all(axis=1)
    _require_rows(
        path, finite, start, lambda row: "its vector has values that are not finite"
    )


def _require_rows(
    path: Path, holds: np.ndarray, start: int, say: Callable[[int], str]
) -> None:
    if not holds.all():
        row = int(np.argmin(holds))
        raise UserError(f"{path}, row {start + row + 1}: {say(row)}")
