"""Tensors in safetensors files, of which parts are read into arrays."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from convert.finite import all_finite
from convert.outputs import DTYPES
from eqids.config import UserError
from eqids.io.reading import read_into, scan

_JOB_BYTES = 8 << 20
"""How much of a tensor one thread reads at a time."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, of which nothing was read yet.

    Attributes:
        path: the file.
        key: its name there.
        start: its first byte in the file.
        inner: safetensors' slice of it, which maps the file.
    """

    path: Path
    key: str
    start: int
    inner: Any

    def get_shape(self) -> list[int]:
        """Returns its shape."""
        shape: list[int] = self.inner.get_shape()
        return shape

    def get_dtype(self) -> str:
        """Returns the name that safetensors gives its dtype."""
        name: str = self.inner.get_dtype()
        return name

    def __getitem__(self, box: Any) -> Shaped[np.ndarray, "..."]:
        """Returns a part of it, read by safetensors."""
        part: np.ndarray = self.inner[box]
        return part

    def num_values(self, rows: slice) -> int:
        """Returns how many values a range of rows has."""
        return (rows.stop - rows.start) * math.prod(self.get_shape()[1:])

    def jobs(self, rows: slice) -> Iterator[slice]:
        """Yields parts of a range of rows, each for one `fill`."""
        step = max(1, _JOB_BYTES // max(1, self._row_bytes))
        for first in range(rows.start, rows.stop, step):
            yield slice(first, min(first + step, rows.stop))

    def fill(self, rows: slice, out: Shaped[np.ndarray, "..."]) -> bool:
        """Reads whole rows, on this thread.

        If the dtypes are equal, the values go straight to their place; otherwise they
        are cast a block at a time.

        Args:
            rows: indices of the first axis.
            out: contiguous; as many values as the rows have, cast to its dtype.

        Returns:
            Whether all values are finite, before and after the cast.

        Raises:
            UserError: the file is shorter than it was.
        """
        dtype, fine = DTYPES[self.get_dtype()], [True]
        flat = out.reshape(-1)
        start = self.start + rows.start * self._row_bytes
        done = [0]

        def look(block: np.ndarray) -> None:
            fine[0] &= all_finite(block.view(dtype))

        def cast(block: np.ndarray) -> None:
            values = block.view(dtype)
            target = flat[done[0] : done[0] + len(values)]
            with np.errstate(over="ignore"):  # what overflows is not finite
                np.copyto(target, values, casting="unsafe")
            wider = out.dtype.itemsize > dtype.itemsize
            fine[0] &= all_finite(values if wider else target)
            done[0] += len(values)

        try:
            if out.dtype == dtype:
                read_into(self.path, start, flat.view(np.uint8), look)
            else:
                stop = start + flat.size * dtype.itemsize
                scan(self.path, start, stop, cast)
        except OSError as error:
            raise UserError(
                f"{self.path}: {self.key} cannot be read ({error.strerror}); download "
                "it again"
            ) from error
        return fine[0]

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.get_shape()[1:]) * DTYPES[self.get_dtype()].itemsize


def first_bytes(path: Path) -> Mapping[str, int]:
    """Returns the first byte of every tensor of a safetensors file, which is whole."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {key: 8 + size + row["data_offsets"][0] for key, row in header.items()}
