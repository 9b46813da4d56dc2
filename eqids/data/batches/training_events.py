"""What batches need of a dataset: its training events, without what opens folders."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64


@runtime_checkable
class TrainingEvents(Protocol):
    """What batches need of a `Dataset`, whose fields these are."""

    @property
    def path(self) -> Path:
        """The folder, for messages."""

    @property
    def slots(self) -> Int32[np.ndarray, " event"]:
        """The items of all histories, users one after the other."""

    @property
    def times(self) -> Int64[np.ndarray, " event"] | None:
        """Seconds, or none."""

    @property
    def offsets(self) -> Int64[np.ndarray, " bound"]:
        """Where each history starts and ends."""

    @property
    def train_length(self) -> Int[np.ndarray, " user"]:
        """How many of the first events of each history are for training."""

    @property
    def item_valid(self) -> Bool[np.ndarray, "cluster place"]:
        """Places of items that may be targets."""
