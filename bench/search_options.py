"""Flags of `python -m bench topk` and `python -m bench recommend`."""

from dataclasses import dataclass
from pathlib import Path

from bench.options import Options
from eqids.config import ONE_OR_MORE, check_flags, grouped
from eqids.io.cores import num_cores


@dataclass(frozen=True)
class TopkOptions(Options):
    """Time exact top-k against full scoring and faiss.

    On synthetic catalogs of known peakedness, or on a trained one.
    """

    checkpoint: Path | None = None
    """Search a trained catalog too: DIR/STEP, or a run's DIR (its best step)."""
    data_dir: Path | None = None
    """Dataset folder of --checkpoint; by default the one of its run."""


@dataclass(frozen=True)
class RecommendOptions(Options):
    """Time recommendations: many users at once, and one user, first and again."""

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the process to this many cores; by default all it may use."""
    checkpoint: Path | None = None
    """The model: DIR/STEP or a run's DIR (its best step); by default nano with random
    weights."""
    data_dir: Path | None = None
    """The dataset folder; by default the one of the checkpoint's run, or ML-100K,
    downloaded if it is missing."""
    users: int = 256
    """Users in one call."""
    k: int = 10
    """Items to recommend to each user."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "users k", ONE_OR_MORE)
