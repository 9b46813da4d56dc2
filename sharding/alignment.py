"""Allocates host memory that XLA uses without a copy."""

import numpy as np
from jaxtyping import UInt8

_ALIGNMENT = 64


def aligned(num_bytes: int) -> UInt8[np.ndarray, " byte"]:
    """Returns uninitialised bytes whose address has the alignment that XLA needs."""
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes]
