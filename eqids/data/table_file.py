"""Tables that are used as they are, such as histories to recommend for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ibis
import pyarrow as pa

from eqids.config import UserError, require
from eqids.data.tables import ROW, parquet, reading, with_header

COMPRESSIONS: Mapping[str, str] = {".gz": "gzip", ".zst": "zstd"}
"""By the end of a CSV file's name, how it is compressed."""


def is_csv(path: Path) -> bool:
    """Whether a file is called CSV, compressed or not; others are Parquet."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] == ".csv"


def read_table(path: Path, wanted: Sequence[str]) -> pa.Table:
    """Reads a CSV or Parquet file, its rows in order.

    Args:
        path: the file.
        wanted: columns that tell how a CSV file separates its fields.

    Raises:
        UserError: it is not there or cannot be read, or it has no rows.
    """
    require(path.is_file(), f"{path}: no such file")
    con = ibis.duckdb.connect()
    try:
        table = with_header(con, path, wanted) if is_csv(path) else parquet(con, path)
        names = [name for name in table.columns if name != ROW]
        with reading(path):
            found = table.order_by(ROW).select(*names).to_pyarrow()
    except UserError as error:
        kind = "CSV" if is_csv(path) else "Parquet"
        said = str(error).removeprefix(f"{path} ").removeprefix("cannot be read: ")
        raise UserError(
            f"{path} is not a {kind} file that can be read: {said}"
        ) from error
    finally:
        con.disconnect()
    require(found.num_rows > 0, f"{path} has no rows, wanted some below the names")
    return found
