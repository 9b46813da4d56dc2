"""Reads of histories that are mapped and not in memory.

A batch uses a few events in each of many places. If the system read what follows each
of them, as it does for a file that is read from one end to the other, memory would fill
with events that no batch of this time uses (with 8 MB at a place, a loader with 2 GB
made 3% of the rows). So it reads a block around each event, and nothing else.
"""

import mmap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_BLOCK_EVENTS = 2**16
"""Events that are read together."""
_RECENT = 2**10
"""Blocks that are expected to be in memory still."""


class MappedEvents:
    """Asks the system for blocks of mapped arrays before their events are used."""

    def __init__(self, arrays: Sequence[np.ndarray | None]):
        """Finds which arrays are mapped.

        Args:
            arrays: one number for each event, or none.
        """
        found = [_mapped(one) for one in arrays if one is not None]
        self._mapped = [one for one in found if one is not None]
        for file, *_ in self._mapped:
            # Of what is not requested in time, one page is read, and not megabytes.
            file.madvise(mmap.MADV_RANDOM)
        # The keys of a dict are in the order in which they were added.
        self._recent: dict[int, None] = {}

    def ask(
        self, first: Int[np.ndarray, " window"], last: Int[np.ndarray, " window"]
    ) -> None:
        """Begins to read the blocks of some events, unless that was done recently.

        Args:
            first: the first event of each window, which is shorter than a block.
            last: the last event of each window.
        """
        if not self._mapped:
            return
        blocks = np.unique(np.concatenate([first, last]) // _BLOCK_EVENTS)
        for block in blocks.tolist():
            if block in self._recent:
                continue
            self._recent[block] = None
            for file, start, size in self._mapped:
                begin = start + block * _BLOCK_EVENTS * size
                end = min(begin + _BLOCK_EVENTS * size, len(file))
                begin -= begin % mmap.PAGESIZE
                file.madvise(mmap.MADV_WILLNEED, begin, end - begin)
        while len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]


def _mapped(array: np.ndarray) -> tuple[mmap.mmap, int, int] | None:
    """The file behind an array, where the array starts in it, and bytes a number."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise"):
        return None
    start = np.frombuffer(base, np.uint8).__array_interface__["data"][0]
    at = array.__array_interface__["data"][0] - start
    return base, at, array.itemsize
