"""Flags of `python -m bench gpu`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.options import require_folder
from eqids.cli import check_output
from eqids.config import ABOVE_ZERO, check_flags, grouped, require

PartName = Literal[
    "kernels", "parity", "train", "peers", "head", "storage", "serve", "profile"
]


@dataclass(frozen=True)
class GpuOptions:
    """Measure EqIDs on one GPU within a bounded time, without a network.

    Weights are random, of the published sizes, and histories are generated. Results are
    printed and written after each part. A part that fails is recorded, and the next one
    runs. bench/gpu.md lists what must be installed.
    """

    minutes: float = grouped("measurement", 25.0)
    """Minutes for all parts. A part that would begin later is recorded as not run."""
    json: Path | None = grouped("measurement", None)
    """Write results to this JSON file after each part. Parts that it already holds are
    kept and not measured again."""
    again: bool = grouped("measurement", False)
    """Measure parts again that the file of --json already holds."""
    parts: tuple[PartName, ...] = grouped("measurement", ())
    """The parts to measure, by default all."""
    platform: Literal["gpu", "cpu"] = grouped("measurement", "gpu")
    """The device. On a CPU all sizes are toys: a check that every part works."""
    folder: Path | None = grouped("measurement", None)
    """An existing folder for weights, checkpoints and traces (up to 40 GB), which are
    deleted; by default that of temporary files."""
    seed: int = grouped("measurement", 0)
    """Seed of everything random."""

    def __post_init__(self) -> None:
        check_flags(self, "minutes", ABOVE_ZERO)
        check_output(self.json, "--json")
        require_folder("--folder", self.folder)
        twice = sorted({p for p in self.parts if self.parts.count(p) > 1})
        require(not twice, f"--parts names {', '.join(twice)} twice, wanted it once")
