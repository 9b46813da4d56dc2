"""A checkpoint's arrays as one safetensors file, written as a stream."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eqids.config import UserError, require
from eqids.fit.checkpoint.chunks import whole
from eqids.fit.checkpoint.manifest import (
    ArrayRecord,
    Manifest,
    read_manifest,
    step_label,
)
from eqids.fit.checkpoint.reader import Reader

_DTYPES = {
    "bool": "BOOL", "bfloat16": "BF16", "float16": "F16", "float32": "F32",
    "float64": "F64", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


def export_safetensors(
    path: Path, output: Path, advance: Callable[[int], None] | None = None
) -> None:
    """Writes the arrays of a checkpoint into a safetensors file, each under its name.

    Memory holds one row of chunks at a time. Random keys are written as their data;
    the step and the checkpoint's `meta` (as JSON) go into the file's metadata.

    Args:
        path: the checkpoint, DIR/STEP.
        output: the file; it appears when it is whole, over an older one.
        advance: hears of bytes as they are read.

    Raises:
        UserError: an array is damaged or has a dtype that safetensors lacks, or
            the file cannot be written.
    """
    manifest = read_manifest(path)
    for name, record in manifest.arrays.items():
        require(
            record.dtype in _DTYPES,
            f"{step_label(path)}: array {name!r} is {record.dtype}, safetensors knows "
            f"{sorted(_DTYPES)}",
        )
    partial = output.with_name(f".{output.name}.partial")
    try:
        with partial.open("wb") as file, Reader(path, manifest) as reader:
            file.write(_header(manifest))
            for name in _order(manifest):
                for block in _rows(reader, name, manifest.arrays[name], advance):
                    file.write(block.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
    except OSError as error:
        raise UserError(f"{output} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _order(manifest: Manifest) -> list[str]:
    """Wide dtypes first, so that every array is aligned to its own."""
    sizes = {
        name: jax.numpy.dtype(record.dtype).itemsize
        for name, record in manifest.arrays.items()
    }
    return sorted(sizes, key=lambda name: (-sizes[name], name))


def _header(manifest: Manifest) -> bytes:
    """Eight bytes of length, then JSON padded to whole words (safetensors' README)."""
    meta = json.dumps(dict(manifest.meta), ensure_ascii=False)
    header: dict[str, Any] = {
        "__metadata__": {"step": str(manifest.step), "meta": meta},
    }
    end = 0
    for name in _order(manifest):
        record, start = manifest.arrays[name], end
        end += record.num_bytes
        header[name] = {
            "dtype": _DTYPES[record.dtype],
            "shape": list(record.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rows(
    reader: Reader,
    name: str,
    record: ArrayRecord,
    advance: Callable[[int], None] | None,
) -> Any:
    if not record.shape:
        yield reader.read(name, (), advance)
        return
    for start in range(0, record.shape[0], record.chunk[0]):
        stop = min(start + record.chunk[0], record.shape[0])
        yield reader.read(name, (slice(start, stop), *whole(record)[1:]), advance)
