"""Host memory that XLA takes over without a copy."""

import numpy as np
from jaxtyping import UInt8

_ALIGNMENT = 64


def aligned(num_bytes: int) -> UInt8[np.ndarray, " byte"]:
    """Returns so many bytes, not set to anything, that start where XLA wants it."""
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes]
