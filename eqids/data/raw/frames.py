"""Tables in memory as sources: DataFrames are read by the code that reads Parquet."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from eqids.config import UserError, require

FRAME = "DataFrame"
"""What `dataset.json` records as the source of a dataset that was made of a table."""


@dataclass(frozen=True)
class FrameFiles:
    """Tables in memory, written to Parquet files for as long as they are read."""

    folder: Path
    """An empty folder that exists as long as the files are needed."""

    def write(self, name: str, table: Any) -> Path:
        """Writes a table, and returns its file.

        Args:
            name: the name of the argument that has the table.
            table: a pandas DataFrame, whose index is left out; a pyarrow Table; or any
                other table with the Arrow interface `__arrow_c_stream__`, such as one
                of Polars or DuckDB.

        Raises:
            UserError: it is no table, or a column mixes types that no file can hold.
        """
        path = self.folder / name
        pq.write_table(_arrow(name, table), path)
        return path

    def named(self, message: str) -> str:
        """Returns a message that names arguments and not the files."""
        for path in sorted(self.folder.iterdir()):
            message = message.replace(f"--{path.name} {path}", f"--{path.name} FILE")
            message = message.replace(f"parquet:{path}", f"the DataFrame {path.name}")
            message = message.replace(str(path), path.name)
        return message


@contextmanager
def frame_files() -> Iterator[FrameFiles]:
    """Yields an empty folder for tables; errors about its files name arguments."""
    with tempfile.TemporaryDirectory(prefix="eqids-frames-") as folder:
        files = FrameFiles(Path(folder))
        try:
            yield files
        except UserError as error:
            raise UserError(files.named(str(error))) from error


def is_table(value: Any) -> bool:
    """Returns whether a value is a table in memory, and not a path or a name."""
    return isinstance(value, pd.DataFrame) or hasattr(value, "__arrow_c_stream__")


def renamed(report: Callable[[str], None], files: FrameFiles) -> Callable[[str], None]:
    """Returns a `report` whose messages name arguments and not files."""
    return lambda message: report(files.named(message))


def _arrow(name: str, table: Any) -> pa.Table:
    require(
        is_table(table),
        f"{name} is a {type(table).__name__}, wanted a DataFrame or an Arrow table",
    )
    if not isinstance(table, pd.DataFrame):
        return pa.table(table)
    columns = [str(column) for column in table.columns]
    try:
        return pa.Table.from_pandas(
            table.set_axis(columns, axis=1), preserve_index=False
        )
    except (pa.ArrowException, TypeError) as error:
        said = " ".join(str(part) for part in error.args)
        raise UserError(
            f"{name} cannot be read: {said}; wanted columns of one type each"
        ) from None
