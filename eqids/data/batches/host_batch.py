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
    """

    tokens: Int32[np.ndarray, "batch seq"]
    items: Int32[np.ndarray, "batch seq"]
    gap: Int32[np.ndarray, "batch seq"]
    segment: Int32[np.ndarray, "batch seq"]
    position: Int32[np.ndarray, "batch seq"]
    target: Int32[np.ndarray, "batch seq"]

    @staticmethod
    def empty(num_rows: int, seq_len: int) -> "HostBatch":
        """Returns a batch of padding, to be filled row by row."""
        shape = num_rows, seq_len
        return HostBatch(
            **{
                field.name: np.full(shape, _EMPTY.get(field.name, 0), np.int32)
                for field in fields(HostBatch)
            }
        )

    def rows(self, rows: slice) -> "HostBatch":
        """Returns these rows of every field."""
        return HostBatch(**{name: array[rows] for name, array in vars(self).items()})
