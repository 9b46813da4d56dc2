"""Folders that appear when they are whole: streamed, read back, renamed."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from eqids.config import UserError, require
from eqids.io.digests import file_sha256

DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"I{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"U{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}
"""By the names of safetensors."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Advance = Callable[[int, int], None]
"""Hears of bytes that were written, and of how many there will be in all."""
FLOATS = {str(DTYPES[name]): DTYPES[name] for name in ("F32", "F16", "BF16")}
"""Dtypes of weights by the names that numpy and Hugging Face give them."""
_METADATA = MappingProxyType({"format": "pt"})
"""What transformers wants to read in a file."""
PART_BYTES = 16 << 20
"""Of a tensor, what is in memory at a time (a row at least)."""


@dataclass(frozen=True)
class Weight:
    """A tensor to write, whose values are read when its turn comes."""

    shape: tuple[int, ...]
    """In the file."""
    dtype: np.dtype
    """As it comes, and as it is written unless another one is asked for."""
    parts: Callable[[], Iterator[np.ndarray]]
    """Returns the values in order, a part at a time, whatever their shapes."""

    @staticmethod
    def of(array: np.ndarray) -> "Weight":
        """Returns an array in memory as a tensor to write."""
        return Weight(array.shape, array.dtype, lambda: iter([array]))

    def as_dtype(self, dtype: np.dtype) -> "Weight":
        """Returns the same values in another dtype, which holds them."""

        def parts() -> Iterator[np.ndarray]:
            return (part.astype(dtype) for part in self.parts())

        return Weight(self.shape, dtype, parts)

    def num_bytes(self, dtype: np.dtype | None = None) -> int:
        """Returns its size, in its own dtype or another."""
        return math.prod(self.shape) * (dtype or self.dtype).itemsize


def write_safetensors(
    file: BinaryIO,
    weights: Mapping[str, Weight],
    dtype: np.dtype | None = None,
    *,
    metadata: Mapping[str, str] = _METADATA,
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> str:
    """Writes tensors as safetensors, a part of one at a time.

    Args:
        file: what to write to.
        weights: tensors by name.
        dtype: what they are cast to; by default each keeps its own.
        metadata: of the whole file.
        advance: hears of bytes as they are written.

    Returns:
        The SHA-256 of what was written.

    Raises:
        UserError: a finite value is infinite in `dtype`.
    """
    # Wide dtypes first, so that every tensor is aligned to its own.
    width = {key: (dtype or one.dtype).itemsize for key, one in weights.items()}
    ordered = {key: weights[key] for key in sorted(weights, key=lambda k: -width[k])}
    total = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        file.write(data)
        total.update(data)

    put(_header(ordered, dtype, metadata))
    for key, weight in ordered.items():
        written = 0
        for part in weight.parts():
            part = _cast(key, part, dtype or weight.dtype)
            put(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            advance(part.nbytes)
            written += part.nbytes
        assert written == weight.num_bytes(dtype), (key, written)
    return total.hexdigest()


class NewFolder:
    """A folder under a temporary name; see `new_folder`."""

    def __init__(self, path: Path, advance: Advance):
        """Begins to write.

        Args:
            path: the folder, which is there and empty.
            advance: hears of bytes of tensors as they are written.
        """
        self.path, self._advance, self._total = path, advance, 0
        self.digests: dict[str, str] = {}

    def expect(
        self, weights: Mapping[str, Weight], dtype: np.dtype | None = None
    ) -> None:
        """Counts tensors among what will be written, for those who watch."""
        self._total += sum(weight.num_bytes(dtype) for weight in weights.values())

    def write(self, name: str, data: bytes) -> None:
        """Writes a file of few bytes."""
        (self.path / name).write_bytes(data)
        self.digests[name] = hashlib.sha256(data).hexdigest()

    def write_json(self, name: str, values: Any) -> None:
        """Writes a JSON file."""
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        self.write(name, text.encode())

    def write_with(self, name: str, write: Callable[[Path], None]) -> None:
        """Writes a file by a function of its path."""
        write(self.path / name)
        self.digests[name] = file_sha256(self.path / name)

    def write_tensors(
        self, name: str, weights: Mapping[str, Weight], dtype: np.dtype | None = None
    ) -> None:
        """Writes a safetensors file, a part of a tensor at a time.

        Args:
            name: of the file.
            weights: tensors by name.
            dtype: what they are cast to; by default each keeps its own.

        Raises:
            UserError: a finite value is infinite in `dtype`.
        """
        with (self.path / name).open("wb") as file:
            self.digests[name] = write_safetensors(
                file, weights, dtype, advance=lambda n: self._advance(n, self._total)
            )

    def verify(self) -> None:
        """Reads every file back from the disk.

        Raises:
            UserError: one does not hold what was written.
        """
        for name, digest in self.digests.items():
            path = self.path / name
            with path.open("rb") as file:
                os.fsync(file.fileno())
            found = file_sha256(path)
            require(
                found == digest,
                f"{name} reads back with SHA-256 {found}, {digest} was written: the "
                "disk is not to be trusted",
            )


@contextmanager
def new_folder(
    path: Path, advance: Advance = lambda done, total: None
) -> Iterator[NewFolder]:
    """Writes a folder under a temporary name, reads it back and renames it.

    Args:
        path: the folder, which must not be there.
        advance: hears of bytes as they are written.

    Raises:
        UserError: it is there, or could not be written; nothing is left then.
    """
    require(
        not path.exists(), f"{path} is there already, wanted a folder that is not yet"
    )
    target = path.resolve()
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        folder = NewFolder(partial, advance)
        yield folder
        folder.verify()
        partial.rename(target)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def row_ranges(num_rows: int, row_bytes: int, unit: int = 1) -> Iterator[slice]:
    """Yields ranges of rows of about `PART_BYTES`, in multiples of `unit` rows."""
    step = max(PART_BYTES // max(row_bytes * unit, 1), 1) * unit
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _cast(key: str, part: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if part.dtype == dtype:
        return part
    with np.errstate(over="ignore"):
        cast = part.astype(dtype)
    require(
        not np.isinf(cast).any() or bool(np.isinf(part).any()),
        f"{key} has values that {dtype} does not hold (the largest is "
        f"{np.abs(part).max():.6g}), wanted another --dtype",
    )
    return cast


def _header(
    weights: Mapping[str, Weight], dtype: np.dtype | None, metadata: Mapping[str, str]
) -> bytes:
    """Eight bytes of length, then JSON padded to whole words (safetensors' README)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for key, weight in weights.items():
        start, end = end, end + weight.num_bytes(dtype)
        header[key] = {
            "dtype": _NAMES[dtype or weight.dtype],
            "shape": list(weight.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
