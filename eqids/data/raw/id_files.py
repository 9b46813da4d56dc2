"""Reads files of item ids."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from eqids.config import UserError, require
from eqids.data.raw.csv_header import header_of
from eqids.data.raw.raw_files import is_parquet, text_file

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
    return read_table(path, [_COLUMN])[_COLUMN]


def read_table(path: Path, wanted: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a table of ids that fits into memory; CSV as text, empty cells included.

    Args:
        path: a Parquet file; or a CSV file with a header, whose fields are separated by
            a comma, a semicolon, a tab or what else `prepare` reads.
        wanted: columns that it must have.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    if is_parquet(path):
        with _reading(path):
            frame = pd.read_parquet(path)
    else:
        frame = _read_csv(path, wanted)
    for name in wanted:
        require(
            name in frame.columns,
            f"{path} has no column {name!r}, wanted {' and '.join(wanted)}; it has "
            f"{', '.join(map(str, frame.columns))}",
        )
    return frame


def _read_csv(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        text = text_file(path, Path(folder))
        delimiter, _ = header_of(path, text, wanted)
        with _reading(path):
            return pd.read_csv(
                text, sep=delimiter, dtype=str, keep_default_na=False,
                encoding="utf-8-sig", engine="c" if len(delimiter) == 1 else "python",
            )  # fmt: skip


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns errors about the content of a file into a `UserError`."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
