"""The few shapes that programs are compiled for: sizes are rounded up to a bucket."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

PAGE = 16
"""Positions of a page of the history cache."""
_SHORTEST = 16
"""Positions of the shortest bucket of histories."""
_FEWEST_ITEMS = 16
"""The smallest bucket of k."""
_MASKED = 2**16
"""In a catalog of at most this many slots, each query has a mask of its own."""
_MASK_BYTES = 2**28
"""Memory of the masks of a batch: few queries of a batch have masks of their own if the
catalog is large."""
_WIDTHS = (64, 512)
"""Buckets of the number of slots that are left out by a list; a longer list becomes a
mask."""


@dataclass(frozen=True)
class Shapes:
    """The buckets of a served model.

    Attributes:
        rows: of a batch; the last is the most histories of a batch.
        lengths: positions of histories; the last is what the model reads at most.
        ks: numbers of items; the last is the most of an answer.
        widths: numbers of slots that a list leaves out; () if all queries have masks.
        masked_rows: the rows of batches whose queries have masks of their own.
        continued: positions of rows that continue kept pages, see `HistoryCache`; ()
            without one.
    """

    rows: Sequence[int]
    lengths: Sequence[int]
    ks: Sequence[int]
    widths: Sequence[int]
    masked_rows: Sequence[int]
    continued: Sequence[int] = ()

    @property
    def num_pages(self) -> int:
        """Pages of the longest history."""
        return -(-self.lengths[-1] // PAGE)

    @staticmethod
    def of(
        seq_len: int,
        num_slots: int,
        max_batch: int,
        max_k: int,
        per_event: int = 0,
        num_devices: int = 1,
    ) -> "Shapes":
        """Returns the buckets up to these sizes.

        Args:
            seq_len: most positions that the model reads.
            num_slots: places of the catalog.
            max_batch: most histories of a batch.
            max_k: most items of an answer.
            per_event: positions that one more event computes where pages of histories
                are kept; 0 if none are.
            num_devices: devices that share a batch; they divide its rows.
        """
        max_batch = -(-max_batch // num_devices) * num_devices
        continued = (per_event, PAGE, 4 * PAGE) if per_event else ()
        rows = _up_to(max_batch, first=num_devices, factor=4)
        most = max(num_devices, _MASK_BYTES // num_slots)
        return Shapes(
            rows=rows,
            lengths=_up_to(seq_len, first=_SHORTEST, factor=2),
            ks=_up_to(min(max_k, num_slots), first=_FEWEST_ITEMS, factor=8),
            widths=() if num_slots <= _MASKED else _WIDTHS,
            masked_rows=[size for size in rows if size <= most],
            continued=sorted(size for size in set(continued) if size < seq_len),
        )

    def up_to(self, max_k: int | None) -> "Shapes":
        """Returns the same without the buckets that no k up to `max_k` needs."""
        if max_k is None:
            return self
        last = self.ks.index(bucket(self.ks, max_k))
        return replace(self, ks=self.ks[: last + 1])


def bucket(sizes: Sequence[int], size: int) -> int:
    """Returns the smallest of ascending sizes that is not below `size`."""
    return sizes[bisect.bisect_left(sizes, size)]


def _up_to(most: int, *, first: int, factor: int) -> Sequence[int]:
    """Returns a geometric sequence below `most`, and `most`."""
    sizes = []
    while first < most:
        sizes.append(first)
        first *= factor
    return [*sizes, most]
