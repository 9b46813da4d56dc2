"""Read a GGUF file: its metadata, and where its tensors are (llama.cpp's `gguf.md`).

All sizes in the file are compared with the file's own size before they are used, so
that a broken file cannot allocate memory. The `gguf` package decodes quantized blocks.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from convert.outputs import row_ranges
from eqids.config import UserError, check_content, require

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_BEFORE_GGUF = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""How files of llama.cpp began before August 2023."""
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
    11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
"""Types of tensors that can be read."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor is in the file."""

    shape: tuple[int, ...]
    """Outermost axis first (the file stores the innermost first)."""
    kind: str
    """The type, such as Q4_1."""
    offset: int
    """The position of the first byte."""
    num_bytes: int
    """The size in the file."""


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file."""

    path: Path
    """The file."""
    metadata: Mapping[str, Any]
    """Values by key: numbers, strings, booleans, lists of them."""
    tensors: Mapping[str, GgufTensor]
    """Tensors by name."""

    def rows(self, name: str, unit: int = 1) -> Iterator[np.ndarray]:
        """Yields a tensor as float32 [row, column], a few rows at a time.

        Args:
            name: of the tensor.
            unit: rows that must not be separated.
        """
        tensor = self.tensors[name]
        kind = GGMLQuantizationType[tensor.kind]
        num_rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
        data = np.memmap(
            self.path, np.uint8, "r", tensor.offset,
            (num_rows, tensor.num_bytes // num_rows),
        )  # fmt: skip
        for rows in row_ranges(num_rows, 4 * columns, unit):
            yield gguf.dequantize(np.ascontiguousarray(data[rows]), kind)


class _Bytes:
    """Reads a file from its beginning, and refuses to read past its end."""

    def __init__(self, path: Path):
        self._path, self._data, self._at = path, np.memmap(path, np.uint8, "r"), 0

    @property
    def at(self) -> int:
        return self._at

    @property
    def size(self) -> int:
        return len(self._data)

    def take(self, num_bytes: int) -> bytes:
        require(
            num_bytes <= self.size - self._at,
            f"{self._path} ends at byte {self.size}, wanted {num_bytes} bytes from "
            f"byte {self._at}: it is cut off or damaged, download it again",
        )
        self._at += num_bytes
        return self._data[self._at - num_bytes : self._at].tobytes()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        start = self._at
        try:
            return self.take(self.number("<Q")).decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self._path}: the text at byte {start} is not UTF-8"
            ) from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == _STRING:
                self._check(count, 8)
                return [self.text() for _ in range(count)]
            form = self._form(inner)
            self._check(count, struct.calcsize(form))
            array = np.frombuffer(self.take(count * struct.calcsize(form)), form)
            return array.tolist()
        return self.number(self._form(kind))

    def _form(self, kind: int) -> str:
        require(
            kind in _SCALARS,
            f"{self._path}: a value before byte {self._at} has type {kind}, which "
            "GGUF does not have (or it is an array of arrays)",
        )
        return _SCALARS[kind]

    def _check(self, count: int, least: int) -> None:
        require(
            count * least <= self.size - self._at,
            f"{self._path}: an array before byte {self._at} claims {count} values, "
            "more than the file holds: it is damaged, download it again",
        )


def read_gguf(path: Path) -> GgufFile:
    """Reads the header of a GGUF file: its metadata, and where its tensors are.

    Raises:
        UserError: the file is not GGUF of version 2 or 3, or is cut off or damaged.
    """
    _check_path(path)
    data = _Bytes(path)
    _check_start(path, data.take(4))
    _check_version(path, data.number("<I"))
    num_tensors, num_values = data.number("<Q"), data.number("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = data.text()
        require(key not in metadata, f"{path}: {key} is stored twice, wanted once")
        metadata[key] = data.value(data.number("<I"))
    found = [_tensor_record(data) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    require(
        isinstance(alignment, int) and alignment > 0,
        f"{path}: general.alignment is {alignment!r}, wanted a positive number",
    )
    start_of_data = -(-data.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in found:
        require(
            name not in tensors, f"{path}: tensor {name} is stored twice, wanted once"
        )
        tensors[name] = _tensor(
            path, name, shape, kind, start_of_data + offset, data.size
        )
    _check_apart(path, tensors)
    return GgufFile(path, metadata, tensors)


def _check_path(path: Path) -> None:
    """Requires a file that is not a pointer or a web page."""
    if path.is_dir():
        inside = sorted(path.glob("*.gguf"))
        remedy = f"give {inside[0]}" if inside else "the folder has none"
        raise UserError(
            f"{path} is not a file but a folder, wanted a GGUF file: {remedy}"
        )
    check_content(path)


def _check_start(path: Path, start: bytes) -> None:
    remedy = "give a file of llama.cpp, whose name ends in .gguf"
    if path.suffix == ".safetensors":
        remedy = f"its folder, {path.parent}, may be one of Hugging Face already"
    if start in _BEFORE_GGUF:
        remedy = (
            "it is a file of llama.cpp from before GGUF, convert it with "
            "convert_llama_ggml_to_gguf.py of llama.cpp"
        )
    require(start == MAGIC, f"{path} begins with {start!r}, wanted {MAGIC!r}: {remedy}")


def _check_version(path: Path, version: int) -> None:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    require(
        swapped not in _VERSIONS,
        f"{path} is a big-endian GGUF file, wanted a little-endian one: convert it "
        f"with `gguf-convert-endian {path} little`",
    )
    require(
        version in _VERSIONS,
        f"{path} is GGUF of version {version}, wanted 2 or 3, little-endian: convert "
        "the model again with a recent llama.cpp",
    )


def _tensor_record(data: _Bytes) -> tuple[str, tuple[int, ...], int, int]:
    name, num_axes = data.text(), data.number("<I")
    sizes = struct.unpack(f"<{num_axes}Q", data.take(8 * num_axes))
    return name, sizes[::-1], data.number("<I"), data.number("<Q")


def _tensor(
    path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int, size: int
) -> GgufTensor:
    try:
        type_ = GGMLQuantizationType(kind)
    except ValueError:
        raise UserError(
            f"{path}: tensor {name} has type {kind}, which the installed `gguf` does "
            "not have: update it with `pip install --upgrade gguf`"
        ) from None
    block, block_bytes = GGML_QUANT_SIZES[type_]
    require(
        0 < len(shape) <= 4 and min(shape) > 0 and shape[-1] % block == 0,
        f"{path}: tensor {name} has shape {list(shape)}, wanted 1 to 4 axes and rows "
        f"in blocks of {block}",
    )
    num_bytes = math.prod(shape) // block * block_bytes
    require(
        offset + num_bytes <= size,
        f"{path}: tensor {name} ends at byte {offset + num_bytes}, and the file at "
        f"byte {size}: it is cut off or damaged, download it again",
    )
    return GgufTensor(shape, type_.name, offset, num_bytes)


def _check_apart(path: Path, tensors: Mapping[str, GgufTensor]) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        require(
            tensor.offset >= end, f"{path}: tensor {name} overlaps the one before it"
        )
        end = tensor.offset + tensor.num_bytes
