"""Which pages of a history cache hold what; forgets the least recently used."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.shapes import PAGE


def prefix_digests(
    row: HostBatch, weights: bytes, at_least: int = PAGE
) -> Mapping[int, bytes]:
    """Returns digests of the beginnings of a row, by their numbers of positions.

    Args:
        row: one history.
        weights: names the weights that read it.
        at_least: how far from its end on every beginning has a digest, in positions; at
            least a page. Before that only beginnings of whole pages have one.
    """
    fields = [array[0] for array in vars(row).values() if array is not None]
    positions = np.stack(fields, axis=-1)
    length = len(positions)
    digest, found, start = hashlib.blake2b(weights, digest_size=16), {}, 0
    whole = range(PAGE, length + 1, PAGE)
    last = range(max(1, length - max(at_least, PAGE)), length + 1)
    for stop in sorted({*whole, *last}):
        digest.update(positions[start:stop].tobytes())
        found[stop], start = digest.digest(), stop
    return found


class PageIndex:
    """The places of pages. Not for several threads.

    A page has one key: the digest of all positions up to its last one. A page that is
    not full yet gets a new key when it grows, and its old positions stay.
    """

    def __init__(self, num_pages: int):
        """Starts empty.

        Args:
            num_pages: number of places.
        """
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._free = list(range(num_pages))

    def known(self, prefixes: Mapping[int, bytes]) -> tuple[list[int], int]:
        """Returns the places of a history's first pages, and the positions they hold.

        These pages become the most recently used.

        Args:
            prefixes: of the history, from `prefix_digests`.
        """
        keys, length = list[bytes](), 0
        while prefixes.get(length + PAGE) in self._places:
            length += PAGE
            keys.append(prefixes[length])
        for longer in range(length + PAGE - 1, length, -1):
            if prefixes.get(longer) in self._places:
                length = longer
                keys.append(prefixes[longer])
                break
        self._mark_used(keys)
        return [self._places[key] for key in keys], length

    def keep(
        self, prefixes: Mapping[int, bytes], start: int, stop: int, written: set[int]
    ) -> list[int]:
        """Returns where the pages of a history go that hold some positions.

        Args:
            prefixes: of the history.
            start: the first of the positions; those before were known.
            stop: one after the last.
            written: places that pages of the same batch go to, which no other page may
                have; these are added.

        Returns:
            A place for each page from that of `start` on; -1 where the page is held
            already, or no place is left.
        """
        places, keys = list[int](), list[bytes]()
        for first in range(start - start % PAGE, stop, PAGE):
            key = prefixes[min(stop, first + PAGE)]
            place = -1
            if key not in self._places:
                grows = prefixes.get(start) if first < start else None
                place = self._place(grows, written)
                if place < 0:
                    places.append(place)
                    break
                self._places[key] = place
                written.add(place)
            keys.append(key)
            places.append(place)
        self._mark_used(keys)
        return places

    def _place(self, grows: bytes | None, written: set[int]) -> int:
        """The place of the page that grows, a free one, the oldest page's, or -1."""
        if grows is not None and self._places.get(grows, -1) not in {-1, *written}:
            return self._places.pop(grows)
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._places))
        return -1 if self._places[oldest] in written else self._places.pop(oldest)

    def _mark_used(self, keys: list[bytes]) -> None:
        """Marks a history's pages as used; its first page will be forgotten last."""
        for key in reversed(keys):
            self._places.move_to_end(key)
