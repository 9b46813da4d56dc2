"""Write folders of weights: streamed, read back, compared and renamed."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from eqids.config import require
from eqids.io.atomic import new_folder, sync
from eqids.io.digests import ReportBytes, array_bytes, file_sha256

DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"I{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"U{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}
"""Dtypes by the names that safetensors gives them."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Progress = Callable[[int, int], object]
"""Receives the number of bytes of tensors just written, and of all to be written."""
FLOATS = {str(DTYPES[name]): DTYPES[name] for name in ("F32", "F16", "BF16")}
"""Dtypes of weights by the names that NumPy and Hugging Face give them."""
_METADATA = MappingProxyType({"format": "pt"})
"""transformers reads only files with this metadata."""
PART_BYTES = 16 << 20
"""How much of a tensor is in memory at a time (one row at least)."""


@dataclass(frozen=True)
class Weight:
    """A tensor to write, whose values are read when it is written."""

    shape: tuple[int, ...]
    """The shape in the file."""
    dtype: np.dtype
    """The dtype of its values, and in the file unless another is given."""
    parts: Callable[[], Iterator[np.ndarray]]
    """Returns the values in C order, a part at a time, in any shapes."""

    @staticmethod
    def of(array: np.ndarray) -> "Weight":
        """Returns an array in memory as a tensor to write."""
        return Weight(array.shape, array.dtype, lambda: iter([array]))

    def as_dtype(self, dtype: np.dtype) -> "Weight":
        """Returns the tensor cast to another dtype, which can hold its values."""

        def parts() -> Iterator[np.ndarray]:
            return (part.astype(dtype) for part in self.parts())

        return Weight(self.shape, dtype, parts)

    def num_bytes(self, dtype: np.dtype | None = None) -> int:
        """Returns the size in bytes, in the tensor's dtype or in another."""
        return math.prod(self.shape) * (dtype or self.dtype).itemsize


def write_safetensors(
    file: BinaryIO,
    weights: Mapping[str, Weight],
    dtype: np.dtype | None = None,
    *,
    metadata: Mapping[str, str] = _METADATA,
    advance: ReportBytes = lambda num_bytes: None,
) -> str:
    """Writes tensors as safetensors, a part of a tensor at a time.

    Args:
        file: where to write.
        weights: tensors by name.
        dtype: what they are cast to; by default each keeps its own.
        metadata: of the file.
        advance: called for every part that was written.

    Returns:
        The SHA-256 of what was written.

    Raises:
        UserError: a finite value is infinite in `dtype`.
    """
    # The widest dtype first: every tensor then begins at a multiple of its itemsize.
    width = {key: (dtype or one.dtype).itemsize for key, one in weights.items()}
    ordered = {key: weights[key] for key in sorted(weights, key=lambda k: -width[k])}
    digest, header = hashlib.sha256(), _header(ordered, dtype, metadata)
    file.write(header)
    digest.update(header)
    for key, weight in ordered.items():
        written = 0
        for part in weight.parts():
            data = array_bytes(_cast(key, part, dtype or weight.dtype))
            file.write(data)
            digest.update(data)
            advance(len(data))
            written += len(data)
        assert written == weight.num_bytes(dtype), (key, written)
    return digest.hexdigest()


class OutputFolder:
    """A folder that is being written under a temporary name; see `output_folder`."""

    def __init__(self, path: Path, advance: Progress):
        """Begins to write.

        Args:
            path: an empty folder.
            advance: called for every part of a tensor that was written.
        """
        self.path, self._advance, self._total = path, advance, 0
        self.digests: dict[str, str] = {}

    def expect(
        self, weights: Mapping[str, Weight], dtype: np.dtype | None = None
    ) -> None:
        """Adds tensors to the total that `advance` receives."""
        self._total += sum(weight.num_bytes(dtype) for weight in weights.values())

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        (self.path / name).write_bytes(data)
        self.digests[name] = hashlib.sha256(data).hexdigest()

    def write_json(self, name: str, values: Any) -> None:
        """Writes a JSON file."""
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        self.write(name, text.encode())

    def write_with(self, name: str, write: Callable[[Path], None]) -> None:
        """Writes a file by calling a function with its path."""
        write(self.path / name)
        self.digests[name] = file_sha256(self.path / name)

    def write_folder_with(self, write: Callable[[Path, ReportBytes], None]) -> None:
        """Writes files by calling a function with the folder.

        Args:
            write: writes files into the folder, and calls its second argument for every
                part of a tensor.
        """
        write(self.path, lambda n: self._advance(n, self._total))
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name not in self.digests:
                self.digests[name] = file_sha256(path)

    def write_tensors(
        self, name: str, weights: Mapping[str, Weight], dtype: np.dtype | None = None
    ) -> None:
        """Writes a safetensors file, a part of a tensor at a time.

        Args:
            name: the file's.
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
        """Reads every file back from the disk and compares its SHA-256.

        Raises:
            UserError: a file differs from what was written.
        """
        for name, digest in self.digests.items():
            path = self.path / name
            sync(path)
            found = file_sha256(path)
            require(
                found == digest,
                f"{name} reads back with SHA-256 {found}, but {digest} was written: "
                "the disk is damaged, write to another one",
            )


@contextmanager
def output_folder(
    path: Path,
    advance: Progress = lambda done, total: None,
    *,
    replace: bool = False,
) -> Iterator[OutputFolder]:
    """Writes a folder under a temporary name, reads it back and renames it.

    Args:
        path: the folder, which must not exist, unless it is replaced.
        advance: called for every part of a tensor that was written.
        replace: whether an existing folder is replaced.

    Raises:
        UserError: the folder exists or could not be written; nothing is left then.
    """
    if not replace:
        check_new(path)
    with new_folder(path, replace) as partial:
        folder = OutputFolder(partial, advance)
        yield folder
        folder.verify()


def check_new(path: Path) -> None:
    """Requires that an output folder does not exist yet.

    Raises:
        UserError: it exists.
    """
    require(not path.exists(), f"{path} exists already, wanted a new folder")


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
        f"{key} has values that {dtype} cannot hold (the largest is "
        f"{np.abs(part).max():.6g}), wanted another --dtype",
    )
    return cast


def _header(
    weights: Mapping[str, Weight], dtype: np.dtype | None, metadata: Mapping[str, str]
) -> bytes:
    """Returns a header: its length in 8 bytes, then JSON padded to a multiple of 8."""
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
