"""What a part is given, and what it returns: rows of numbers."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.gpu_cases import GpuPlatform


class LeftOutError(Exception):
    """A case that cannot run here: something is not installed, or does not fit."""


@dataclass(frozen=True)
class PartContext:
    """Where and how long a part measures.

    Attributes:
        platform: the device.
        deadline: of `time.monotonic`, when no other case is begun.
        seed: of everything random.
        folder: for temporary files.
    """

    platform: GpuPlatform
    deadline: float
    seed: int
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.platform == "gpu"

    def left(self) -> float:
        """Returns the seconds that are left, or 0."""
        return max(0.0, self.deadline - time.monotonic())

    def budget(self, share: float, most: float) -> float:
        """Returns seconds for repetitions: a share of what is left, at most `most`."""
        return min(most, share * self.left())


@dataclass(frozen=True)
class GpuRow:
    """One line of a part's result.

    Attributes:
        work: what was measured.
        numbers: by name with unit; None where it could not be measured.
        note: what else a reader must know.
    """

    work: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""
