"""Recommendations as a file: CSV, plain or compressed, or Parquet."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from eqids.io.atomic import new_file

_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
"""Compression of a CSV file by the end of its name."""


def write_recommendations(path: Path, parts: Sequence[pd.DataFrame]) -> int:
    """Writes recommendations to one file, which appears when it is complete.

    Args:
        path: the file: CSV if its name ends in .csv, .csv.gz or .csv.zst, otherwise
            Parquet.
        parts: the recommendations, see `Recommender.search`.

    Returns:
        The number of rows.

    Raises:
        UserError: the file could not be written.
    """
    frame = pd.concat(parts, ignore_index=True)
    name = path.name.lower()
    end = next((end for end in _COMPRESSION if name.endswith(end)), "")
    with new_file(path) as partial:
        if name.removesuffix(end).endswith(".csv"):
            compression = _COMPRESSION.get(end)
            with pa.output_stream(str(partial), compression=compression) as file:
                frame.to_csv(file, index=False, mode="wb")
        else:
            frame.to_parquet(partial, index=False)
    return len(frame)
