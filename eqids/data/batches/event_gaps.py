"""Buckets of the time between two events."""

import numpy as np
from jaxtyping import Int32, Int64

NUM_GAPS = 36
"""Buckets of the time between two events: unknown, zero, and 34 powers of two."""


def gap_buckets(
    times: Int64[np.ndarray, " event"] | None, length: int
) -> Int32[np.ndarray, " event"]:
    """Returns the bucket of the time between each event and the one before it.

    Args:
        times: in seconds, not descending; or none.
        length: number of events.

    Returns:
        0 for the first event and for unknown times, 1 for equal times, and otherwise
        2 + floor(log2(seconds)).
    """
    gaps = np.zeros(length, np.int32)
    if times is not None:
        seconds = np.diff(times)
        _, exponent = np.frexp(seconds.astype(np.float64))
        gaps[1:] = np.minimum(1 + exponent, NUM_GAPS - 1)
    return gaps
