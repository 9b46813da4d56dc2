"""Reads files of item ids."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from eqids.config import UserError, require
from eqids.data.raw.raw_files import is_parquet

_COLUMN = "item"
"""The column of a table."""


def read_id_file(path: Path) -> pd.Series:
    """Reads item ids: one a line, or the column item of a CSV or Parquet file.

    Args:
        path: a Parquet file, a CSV file with a header if its name ends in .csv, or a
            text.

    Raises:
        UserError: the file cannot be read, or has no column item.
    """
    if not is_parquet(path) and not path.name.lower().endswith(".csv"):
        with _reading(path):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        ids = [line.strip() for line in lines]
        return pd.Series([one for one in ids if one], dtype=object)
    table = read_table(path)
    require(
        _COLUMN in table.columns,
        f"{path} has no column {_COLUMN!r}, the columns are "
        f"{', '.join(map(str, table.columns))}",
    )
    return table[_COLUMN]


def read_table(path: Path) -> pd.DataFrame:
    """Reads a table of ids that fits into memory; CSV as text, empty cells included.

    Args:
        path: a Parquet file, or otherwise a CSV file with a header.

    Raises:
        UserError: the file cannot be read.
    """
    with _reading(path):
        if is_parquet(path):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns errors about the content of a file into a `UserError`."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
