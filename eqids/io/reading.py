"""Reads parts of files into memory that exists already, a block at a time.

A block is looked at (hashed, say) as soon as it was read, while a cache of the core
holds it. Files are read and not mapped: a mapped file that is cut short, or lies on a
disk with a bad sector, ends the process with SIGBUS, where a read raises an error.
"""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from eqids.io.cores import num_cores
from eqids.io.digests import BLOCK_BYTES

Look = Callable[[UInt8[np.ndarray, " byte"]], object]
"""Receives each block after it was read, in order."""


@cache
def reading_pool() -> ThreadPoolExecutor:
    """Returns the threads that read for this process, two for each core.

    About half of them wait for a disk at a time. None of their jobs waits for another.
    """
    return ThreadPoolExecutor(2 * num_cores(), thread_name_prefix="reading")


def read_into(
    path: Path, start: int, target: UInt8[np.ndarray, " byte"], look: Look | None = None
) -> int:
    """Fills `target` with a file's bytes from `start` on, on this thread.

    Args:
        path: the file.
        start: the first byte.
        target: contiguous memory. Its address should be a multiple of 64: a copy to
            addresses a little after a multiple of 4096 (NumPy's own are 16 after it)
            takes three times as long on some CPUs.
        look: receives each block, of 1 MiB but the last.

    Returns:
        The number of bytes.

    Raises:
        OSError: the file cannot be read, or ends before `target` is full.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        for first in range(0, len(target), BLOCK_BYTES):
            block, done = target[first : first + BLOCK_BYTES], 0
            while done < len(block):
                count = os.preadv(handle, [block.data[done:]], start + first + done)
                if count == 0:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                done += count
            if look is not None:
                look(block)
    finally:
        os.close(handle)
    return len(target)


def scan(path: Path, start: int, stop: int, look: Look) -> int:
    """Reads a part of a file without keeping it, on this thread.

    Args:
        path: the file.
        start: the first byte.
        stop: one past the last.
        look: receives each block, whose memory is used again.

    Returns:
        The number of bytes.

    Raises:
        OSError: the file cannot be read, or ends before `stop`.
    """
    block = np.empty(min(BLOCK_BYTES, max(stop - start, 0)) + 64, np.uint8)
    first = -block.ctypes.data % 64
    for at in range(start, stop, BLOCK_BYTES):
        size = min(BLOCK_BYTES, stop - at)
        read_into(path, at, block[first : first + size], look)
    return stop - start
