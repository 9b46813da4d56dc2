"""The few shapes that programs are compiled for: sizes are rounded up to a bucket."""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 16
"""Positions of the shortest bucket of histories."""
_KS = (16, 128, 1024)
"""Buckets of k below the largest."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The buckets of a served model."""

    seq_len: int
    """Positions of the longest histories that the model reads."""
    max_batch: int = 64
    """Most histories of a batch."""
    max_k: int = 1024
    """Most items of an answer."""

    @functools.cached_property
    def rows(self) -> Sequence[int]:
        """Rows of a batch: powers of 4, and `max_batch`."""
        return _up_to([4**i for i in range(16)], self.max_batch)

    @functools.cached_property
    def lengths(self) -> Sequence[int]:
        """Positions of a history: powers of two, and `seq_len`."""
        return _up_to([SHORTEST << i for i in range(16)], self.seq_len)

    @functools.cached_property
    def ks(self) -> Sequence[int]:
        """Numbers of items, the last is `max_k`."""
        return _up_to(_KS, self.max_k)


def _up_to(sizes: Sequence[int], most: int) -> Sequence[int]:
    return (*(size for size in sizes if size < most), most)


def bucket(sizes: Sequence[int], size: int) -> int:
    """Returns the smallest of ascending sizes that is not below `size`.

    Raises:
        ValueError: all are below it.
    """
    at = bisect.bisect_left(sizes, size)
    if at == len(sizes):
        raise ValueError(f"size is {size}, wanted at most {sizes[-1]}")
    return sizes[at]
