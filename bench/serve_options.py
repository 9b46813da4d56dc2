"""Flags of `python -m bench serve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.options import Options
from eqids.config import ABOVE_ZERO, ONE_OR_MORE, check_flags, grouped, require
from eqids.io.cores import num_cores


@dataclass(frozen=True)
class ServeOptions(Options):
    """Time the server under load, beside the model called in full batches.

    Server and load share this machine and its cores.
    """

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the processes to this many cores; by default all they may use."""
    checkpoint: Path | None = None
    """The model: DIR/STEP or a run's DIR (its best step); by default one of
    --llama_size with random weights."""
    llama_size: Literal["nano", "smollm2-135m"] = "nano"
    """Size of the Llama with random weights."""
    data_dir: Path | None = None
    """The dataset folder; by default the one of the checkpoint's run, or ML-100K,
    downloaded if it is missing."""
    items: int | None = None
    """Generate a dataset of so many items, in place of --data_dir."""
    clients: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of clients that send one request after the other."""
    seconds: float = 10.0
    """Length of each load (2 with --quick)."""
    users: int = 512
    """Histories that are sent in turn, those of users spread over the dataset."""
    k: int = 10
    """Items to recommend."""
    max_batch: int = 64
    """Most histories that go through the model together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "clients items users k max_batch", ONE_OR_MORE)
        require(
            self.items is None or self.data_dir is None and self.checkpoint is None,
            "--items generates a dataset for random weights, wanted neither --data_dir "
            "nor --checkpoint beside it",
        )
        check_flags(self, "seconds", ABOVE_ZERO)
        require(
            list(self.clients) == sorted(set(self.clients)),
            f"--clients is {' '.join(map(str, self.clients))}, wanted numbers that "
            "ascend",
        )

    @property
    def load_seconds(self) -> float:
        """Length of each load."""
        return min(self.seconds, 2.0) if self.quick else self.seconds
