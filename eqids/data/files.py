"""The files of a dataset folder: their names, columns, arrays and hashes."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from eqids.config import UserError, require

ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
HISTORIES_FILE = "histories.safetensors"
CLUSTERS_FILE = "clusters.safetensors"
DATA_FILES = (ITEMS_FILE, USERS_FILE, HISTORIES_FILE, CLUSTERS_FILE)
LINEAGE_FILE = "lineage.safetensors"
"""This file exists only if the catalog has changed since it was prepared."""
SUCCESSORS_FILE = "successors.safetensors"
"""Datasets that were written before version 0.3 lack this file."""

MAPPED_BYTES = 1 << 28
"""Histories from this size on stay on disk."""
_DTYPES: Mapping[str, np.dtype] = {
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}

USER_NUMBERS = ("offset", "length", "train_length", "valid_at", "test_at")
USER_COLUMNS = ("user", *USER_NUMBERS)
ITEM_NUMBERS = ("slot", "count")
ITEM_FLAG = "retired"
ITEM_COLUMNS = ("slot", "item", "title", "text", "count", ITEM_FLAG)


def data_files(catalog_version: int) -> tuple[str, ...]:
    """Returns the files of a dataset besides `dataset.json`."""
    return DATA_FILES if catalog_version == 1 else (*DATA_FILES, LINEAGE_FILE)


def tokens_file(tokenizer: str) -> str:
    """Returns the cache file of the tokens of items, by their tokenizer's SHA-256."""
    return f"tokens-{tokenizer[:12]}.safetensors"


def encodings_file(source: str) -> str:
    """Returns the cache file of encodings of texts, by the SHA-256 of what makes them.

    The next version of a catalog keeps it, because it finds an encoding by its text.
    """
    return f"encodings-{source[:12]}.safetensors"


def is_cache(name: str) -> bool:
    """Returns whether a file is a cache; `words-` is that of datasets of format 2."""
    return re.fullmatch(r"(tokens|words)-[0-9a-f]{12}\.safetensors", name) is not None


def is_kept_cache(name: str) -> bool:
    """Returns whether a file is a cache that the next version of a catalog keeps."""
    return re.fullmatch(r"encodings-[0-9a-f]{12}\.safetensors", name) is not None


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file, by name.

    Raises:
        UserError: it is no safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from None


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a safetensors file.

    Raises:
        OSError: the disk is full, or cannot be written to.
    """
    try:
        save_file(dict(arrays), path)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def read_events(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the histories, by name.

    Those of a large file stay on disk: the system reads what is used, into memory that
    it gives to others when they need some.

    Raises:
        UserError: it is no safetensors file.
    """
    if path.stat().st_size < MAPPED_BYTES:
        return read_tensors(path)
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from None
    data = np.asarray(np.memmap(path, np.uint8, "r"))
    length = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + length].tobytes())
    arrays = {}
    for name in names:
        said = header[name]
        start, stop = (8 + length + at for at in said["data_offsets"])
        kind = said["dtype"]
        require(kind in _DTYPES, f"{path}: {name} is {kind}, wanted integers")
        arrays[name] = data[start:stop].view(_DTYPES[kind]).reshape(said["shape"])
    return arrays


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the table of a Parquet file of any name.

    The file is opened here, because pyarrow takes names such as `file:x` for URLs.

    Args:
        path: the file.
        columns: those to read, by default all.
    """
    with path.open("rb") as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file of any name; equal rows make equal bytes."""
    with path.open("wb") as file:
        # Pages of a file end where the chunks of a table do.
        pq.write_table(table.combine_chunks(), file)


def read_npy(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Returns the array of a user's `.npy` file.

    Args:
        path: the file.
        mmap_mode: as of `numpy.load`.

    Raises:
        UserError: it is no `.npy` file, or it is an archive of arrays.
    """
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no .npy file of numbers: {error}") from None
    require(
        isinstance(array, np.ndarray),
        f"{path} is an archive of arrays, wanted a .npy file of one",
    )
    return array


def read_numbers(
    path: Path,
    columns: Sequence[str],
    numbers: Sequence[str],
    num_rows: int,
    flags: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Returns columns of integers and of booleans of a Parquet file.

    Args:
        path: the file.
        columns: all columns that it must have.
        numbers: columns of integers to read.
        num_rows: the rows that it must have.
        flags: columns of booleans to read.

    Raises:
        UserError: the file, its columns or its number of rows is wrong.
    """
    try:
        table = read_parquet(path)
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from None
    require(
        table.column_names == list(columns),
        f"{path} has columns {table.column_names}, wanted {list(columns)}",
    )
    require(
        table.num_rows == num_rows,
        f"{path} has {table.num_rows} rows, wanted {num_rows}",
    )
    kinds = dict.fromkeys(numbers, ("integers", pa.types.is_integer))
    kinds |= dict.fromkeys(flags, ("true and false", pa.types.is_boolean))
    for name, (wanted, fits) in kinds.items():
        column = table[name]
        require(
            fits(column.type) and column.null_count == 0,
            f"{path}: column {name} is {column.type} with {column.null_count} empty "
            f"cells, wanted {wanted}",
        )
    return {name: table[name].to_numpy() for name in kinds}


def read_array(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    name: str,
    dtype: type,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Returns one of the `arrays` of file `path`, after checking its dtype and shape.

    Raises:
        UserError: the array is missing, or has another dtype or shape.
    """
    require(name in arrays, f"{path} has no array {name!r}")
    array = arrays[name]
    require(
        array.dtype == dtype and array.shape == shape,
        f"{path}: {name} is {array.dtype}{list(array.shape)}, wanted "
        f"{np.dtype(dtype)}{list(shape)}",
    )
    return array
