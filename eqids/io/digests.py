"""Digests of files and arrays.

Files that are published under a SHA-256, and everything that an older EqIDs has
recorded, have a SHA-256: 64 hexadecimal digits. What EqIDs records of its own files and
arrays is a BLAKE3, which takes less time and is written with its name: `blake3:5d4f…`.
So a recorded digest says itself how it is computed again.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import blake3
import numpy as np
from jaxtyping import Shaped

ReportBytes = Callable[[int], object]
"""Receives the number of bytes that were read or written since its last call."""

BLOCK_BYTES = 1 << 20
"""How much is read and hashed at a time: it is in a cache of the core then."""
_BLAKE3 = "blake3:"
_PARALLEL_BYTES = 16 << 20
"""How much of a file is read before all cores hash it."""


class Hasher:
    """Computes one digest, block by block."""

    def __init__(self, like: str | None = None, num_threads: int = 1) -> None:
        """Begins a digest of no bytes.

        Args:
            like: a recorded digest, which is to be computed again; by default BLAKE3.
            num_threads: of BLAKE3, for blocks of some MiB.
        """
        self._sha256 = like is not None and not like.startswith(_BLAKE3)
        self._hash = (
            hashlib.sha256() if self._sha256 else blake3.blake3(max_threads=num_threads)
        )

    def update(self, data: memoryview | bytes) -> None:
        """Adds bytes."""
        self._hash.update(data)

    @property
    def text(self) -> str:
        """The digest, as it is recorded."""
        digits = self._hash.hexdigest()
        return digits if self._sha256 else _BLAKE3 + digits


def digest(data: memoryview | bytes, like: str | None = None) -> str:
    """Returns the digest of bytes, by BLAKE3 or as a recorded digest was computed."""
    hasher = Hasher(like)
    hasher.update(data)
    return hasher.text


def file_digest(
    path: Path,
    like: str | None = None,
    *,
    start: int = 0,
    advance: ReportBytes | None = None,
) -> str:
    """Returns the digest of a file's content, computed by all cores.

    Args:
        path: the file.
        like: a recorded digest, which is to be computed again; by default BLAKE3.
        start: the first byte.
        advance: called for every block that was read.
    """
    hasher = Hasher(like, blake3.blake3.AUTO)
    with path.open("rb", buffering=0) as file:
        left = max(0, file.seek(0, 2) - file.seek(start))
        block = memoryview(bytearray(min(_PARALLEL_BYTES, max(left, 1))))
        while num_bytes := file.readinto(block):
            hasher.update(block[:num_bytes])
            if advance is not None:
                advance(num_bytes)
    return hasher.text


def file_sha256(path: Path, advance: ReportBytes | None = None) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Args:
        path: the file.
        advance: called for every block that was read.
    """
    hasher, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            hasher.update(block[:num_bytes])
            if advance is not None:
                advance(num_bytes)
    return hasher.hexdigest()


def combined_sha256(digests: Iterable[str]) -> str:
    """Returns the SHA-256 of several digests, one after the other."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def array_bytes(values: Shaped[np.ndarray, "..."]) -> memoryview:
    """Returns the bytes of an array in C order; a contiguous array is not copied."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
