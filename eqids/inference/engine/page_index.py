"""Which pages of a history cache hold what; forgets the least recently used."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.shapes import PAGE


def page_digests(row: HostBatch, model: bytes) -> Sequence[bytes]:
    """Returns the digests of the whole pages of a row, positions before included.

    Args:
        row: one history.
        model: names the weights that read it.
    """
    arrays = [array[0] for array in vars(row).values() if array is not None]
    digests, before = [], model
    for stop in range(PAGE, len(arrays[0]) + 1, PAGE):
        page = b"".join(array[stop - PAGE : stop].tobytes() for array in arrays)
        before = hashlib.blake2b(before + page).digest()
        digests.append(before)
    return digests


class PageIndex:
    """The places of pages by their digests. Not for several threads."""

    def __init__(self, num_pages: int):
        """Starts empty.

        Args:
            num_pages: number of places.
        """
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._free = list(range(num_pages))

    def known(self, digests: Sequence[bytes]) -> list[int]:
        """Returns the places of a history's first pages, as far as all are held.

        They become the most recently used; of one history, the first is forgotten last.
        """
        found = []
        for digest in digests:
            if digest not in self._places:
                break
            found.append(self._places[digest])
        for digest in reversed(digests[: len(found)]):
            self._places.move_to_end(digest)
        return found

    def place(self, digests: Sequence[bytes]) -> list[int]:
        """Returns places for pages that are not held, all different.

        Pages that no place is left for get none: there are fewer places than pages.

        Args:
            digests: of pages.

        Returns:
            The places, in order; -1 for a page that is held already, was given before,
            or gets none.
        """
        new = [
            digest for digest in dict.fromkeys(digests) if digest not in self._places
        ]
        new = new[: len(self._places) + len(self._free)]
        while len(self._free) < len(new):
            _, oldest = self._places.popitem(last=False)
            self._free.append(oldest)
        places = {digest: self._free.pop() for digest in new}
        for digest in reversed(new):
            self._places[digest] = places[digest]
        return [places.pop(digest, -1) for digest in digests]

    def clear(self) -> None:
        """Forgets all pages."""
        self._free += self._places.values()
        self._places.clear()
