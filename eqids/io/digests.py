"""SHA-256 digests of files and arrays."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

ReportBytes = Callable[[int], object]
"""Receives the number of bytes that were read or written since its last call."""

_BLOCK_BYTES = 4 << 20


def file_sha256(path: Path, advance: ReportBytes | None = None) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Args:
        path: the file.
        advance: called for every block that was read.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            digest.update(block[:num_bytes])
            if advance is not None:
                advance(num_bytes)
    return digest.hexdigest()


def combined_sha256(digests: Iterable[str]) -> str:
    """Returns the SHA-256 of several digests, one after the other."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def array_bytes(values: Shaped[np.ndarray, "..."]) -> memoryview:
    """Returns the bytes of an array in C order; a contiguous array is not copied."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
