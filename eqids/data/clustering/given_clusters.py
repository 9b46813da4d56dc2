"""Reads the clusters of items from the user's file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int64

from eqids.config import UserError, require
from eqids.data.id_values import is_text
from eqids.data.ids import Ids, shown
from eqids.data.raw.engine import engine, reading
from eqids.data.raw.item_rows import require_column
from eqids.data.raw.tables import ROW, table_of_file

CLUSTER_COLUMN = "cluster"


def read_clusters(
    path: Path, item_column: str
) -> tuple[pa.ChunkedArray, Int64[np.ndarray, " row"] | None]:
    """Reads item ids and their clusters, in the file's order.

    Args:
        path: a CSV or Parquet file.
        item_column: its column of ids; the other is `CLUSTER_COLUMN`.

    Returns:
        The ids, null in a row without one; and the clusters, -1 in such a row, or None
        if the file has no such column.

    Raises:
        UserError: the file cannot be read, lacks the column of ids, or a cluster is no
            whole number from 0 on.
    """
    with engine() as reader:
        table = table_of_file(reader, path, [item_column])
        require_column(table, item_column)
        columns = {"id": table[item_column]}
        if CLUSTER_COLUMN in table:
            columns["cluster"] = table[CLUSTER_COLUMN]
        with reading(path):
            rows = table.table.order_by(ROW).select(**columns).to_pyarrow()
    ids = rows["id"]
    if is_text(ids.type):
        ids = pc.if_else(pc.equal(ids, ""), pa.scalar(None, ids.type), ids)
    empty = pc.is_null(ids, nan_is_null=True)
    ids = pc.if_else(empty, pa.scalar(None, ids.type), ids)
    if "cluster" not in columns:
        return ids, None
    return ids, _whole_numbers(path, rows["cluster"], ids)


def _whole_numbers(
    path: Path, column: pa.ChunkedArray, ids: pa.ChunkedArray
) -> Int64[np.ndarray, " row"]:
    named = ids.is_valid().to_numpy()
    numbers = np.full(len(column), -1, np.int64)
    try:
        given = column.filter(pa.array(named)).cast(pa.int64())
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: column {CLUSTER_COLUMN!r} is no column of whole numbers: {error}"
        ) from None
    numbers[named] = given.fill_null(-1).to_numpy()
    wrong = np.flatnonzero(named & (numbers < 0))
    row = int(wrong[0]) if len(wrong) else 0
    require(
        not len(wrong),
        f"{path}, row {row + 1}: {CLUSTER_COLUMN!r} is {shown(column[row].as_py())}, "
        "wanted a whole number from 0 on",
    )
    return numbers


def given_clusters(
    path: Path, item_column: str, items: pa.ChunkedArray
) -> tuple[Int64[np.ndarray, " item"], int]:
    """Returns the cluster of every item by the user's file, and how many there are.

    Clusters without an item are left out; the others keep their order.

    Args:
        path: the file.
        item_column: its column of ids.
        items: the ids of the items.

    Raises:
        UserError: see `read_clusters`; or the file lacks an item, or names one twice.
    """
    ids, given = read_clusters(path, item_column)
    if given is None:
        raise UserError(
            f"{path} has no column {CLUSTER_COLUMN!r}, wanted the number of each "
            "item's cluster there"
        )
    row_of = rows_of_items(path, ids, Ids(items).find(ids), len(items))
    missing = np.flatnonzero(row_of < 0)
    first = items[int(missing[0])].as_py() if len(missing) else None
    require(
        not len(missing),
        f"{path} has no row for {len(missing):,} of {len(items):,} items, the first of "
        f"which is {shown(first)}; wanted the cluster of every item",
    )
    numbers, cluster = np.unique(given[row_of], return_inverse=True)
    return cluster, len(numbers)


def rows_of_items(
    path: Path, ids: pa.ChunkedArray, found: Int[np.ndarray, " row"], num_items: int
) -> Int64[np.ndarray, " item"]:
    """Returns the row of each item in a file, -1 for none.

    Args:
        path: the file, for messages.
        ids: the ids of its rows, for messages.
        found: the number of the item that each row names, -1 for none.
        num_items: how many numbers there are.

    Raises:
        UserError: two rows name the same item.
    """
    rows = np.flatnonzero(found >= 0)
    row_of = np.full(num_items, -1)
    row_of[found[rows]] = rows
    twice = rows[row_of[found[rows]] != rows]
    row = int(twice[0]) if len(twice) else 0
    require(
        not len(twice),
        f"{path}, row {row + 1}: item {shown(ids[row].as_py())} has another row, "
        "wanted each item once",
    )
    return row_of
