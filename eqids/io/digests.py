"""The SHA-256 of a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 4 << 20


def file_sha256(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Args:
        path: the file.
        advance: receives the number of bytes of every block that was read.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            digest.update(block[:num_bytes])
            if advance is not None:
                advance(num_bytes)
    return digest.hexdigest()
