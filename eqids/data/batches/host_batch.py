"""The batch as it leaves the data package: NumPy arrays on the host."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Int32

_EMPTY = {"items": -1, "target": -1}


@dataclass(frozen=True, eq=False)
class HostBatch:
    """Packed histories, a row each; `eqids.model.Batch` is the same on devices.

    Attributes:
        tokens: text tokens; 0 at the position of an item.
        items: slots; -1 at the position of a text token.
        gap: bucket of the time between an item and the one before it; 0 is unknown.
        segment: 0 is padding; histories packed into one row have different numbers.
        position: within the segment.
        target: slot to predict here; -1 is none.
        request_gap: bucket of the time between the last event here and the request for
            the next item, at positions that predict; 0 is unknown. None for a model
            that does not read it.
    """

    tokens: Int32[np.ndarray, "batch seq"]
    items: Int32[np.ndarray, "batch seq"]
    gap: Int32[np.ndarray, "batch seq"]
    segment: Int32[np.ndarray, "batch seq"]
    position: Int32[np.ndarray, "batch seq"]
    target: Int32[np.ndarray, "batch seq"]
    request_gap: Int32[np.ndarray, "batch seq"] | None = None

    @staticmethod
    def empty(num_rows: int, seq_len: int, request_time: bool = False) -> "HostBatch":
        """Returns a batch of padding, to be filled row by row.

        Args:
            num_rows: number of rows.
            seq_len: positions in a row.
            request_time: whether it has a `request_gap`.
        """
        shape = num_rows, seq_len
        names = [field.name for field in fields(HostBatch)]
        if not request_time:
            names.remove("request_gap")
        return HostBatch(
            **{name: np.full(shape, _EMPTY.get(name, 0), np.int32) for name in names}
        )

    def rows(self, rows: slice) -> "HostBatch":
        """Returns these rows of every field."""
        return HostBatch(**{n: a[rows] for n, a in vars(self).items() if a is not None})
