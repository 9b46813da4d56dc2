"""Arrays of a checkpoint as one safetensors file, written as a stream."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eqids.config import UserError, require
from eqids.fit.checkpoint.chunks import whole
from eqids.fit.checkpoint.manifest import Manifest, read_manifest, step_label
from eqids.fit.checkpoint.reader import Reader

_DTYPES = {
    "bool": "BOOL", "bfloat16": "BF16", "float16": "F16", "float32": "F32",
    "float64": "F64", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: an array, or one place on its first axis."""

    array: str
    """The array's name in the checkpoint."""
    shape: tuple[int, ...]
    """In the file; the order of values is the array's."""
    place: int | None = None
    """On the array's first axis; None for the whole."""


def export_safetensors(
    path: Path,
    output: Path,
    tensors: Mapping[str, Tensor],
    advance: Callable[[int], None] | None = None,
) -> None:
    """Writes arrays of a checkpoint into a safetensors file.

    Memory holds one row of chunks at a time. Random keys are written as their data;
    the step and the checkpoint's `meta` (as JSON) go into the file's metadata.

    Args:
        path: the checkpoint, DIR/STEP.
        output: the file; it appears when it is whole, over an older one.
        tensors: what to write, by name in the file.
        advance: hears of bytes as they are read.

    Raises:
        UserError: an array is damaged or has a dtype that safetensors lacks, or
            the file cannot be written.
    """
    manifest = read_manifest(path)
    for tensor in tensors.values():
        record = manifest.arrays[tensor.array]
        require(
            record.dtype in _DTYPES,
            f"{step_label(path)}: array {tensor.array!r} is {record.dtype}, "
            f"safetensors knows {sorted(_DTYPES)}",
        )
    partial = output.with_name(f".{output.name}.partial")
    # Wide dtypes first, so that every array is aligned to its own.
    order = sorted(
        tensors, key=lambda name: (-_itemsize(manifest, tensors[name]), name)
    )
    try:
        with partial.open("wb") as file, Reader(path, manifest) as reader:
            file.write(_header(manifest, {name: tensors[name] for name in order}))
            for name in order:
                for block in _rows(reader, manifest, tensors[name], advance):
                    file.write(block.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise UserError(f"{output} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _itemsize(manifest: Manifest, tensor: Tensor) -> int:
    return jax.numpy.dtype(manifest.arrays[tensor.array].dtype).itemsize


def _header(manifest: Manifest, tensors: Mapping[str, Tensor]) -> bytes:
    """Eight bytes of length, then JSON padded to whole words (safetensors' README)."""
    meta = json.dumps(dict(manifest.meta), ensure_ascii=False)
    header: dict[str, Any] = {
        "__metadata__": {"step": str(manifest.step), "meta": meta},
    }
    end = 0
    for name, tensor in tensors.items():
        start = end
        end += math.prod(tensor.shape) * _itemsize(manifest, tensor)
        header[name] = {
            "dtype": _DTYPES[manifest.arrays[tensor.array].dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rows(
    reader: Reader,
    manifest: Manifest,
    tensor: Tensor,
    advance: Callable[[int], None] | None,
) -> Iterator[np.ndarray]:
    """The tensor's values, a row of chunks at a time."""
    record, box = manifest.arrays[tensor.array], whole(manifest.arrays[tensor.array])
    if tensor.place is not None:
        box = (slice(tensor.place, tensor.place + 1), *box[1:])
    axis = 0 if tensor.place is None else 1
    if len(box) <= axis:
        yield reader.read(tensor.array, box, advance)
        return
    for start in range(0, record.shape[axis], record.chunk[axis]):
        stop = min(start + record.chunk[axis], record.shape[axis])
        rows = (*box[:axis], slice(start, stop), *box[axis + 1 :])
        yield reader.read(tensor.array, rows, advance)
