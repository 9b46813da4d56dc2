"""The time between two events as the model reads it, by its definition."""

import math


def bucket(seconds: int) -> int:
    """The index of a gap: 1 for none, then one for each power of two."""
    return 1 if seconds == 0 else 2 + math.floor(math.log2(seconds))
