"""What `python -m bench` is told; fields are flags, their texts the help."""

from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import num_cores
from eqids.config import require


@dataclass(frozen=True)
class Options:
    """What every section of the bench is told."""

    quick: bool = False
    """Small catalogs: ends within 30 seconds, and shows that the bench works."""
    json: Path | None = None
    """Write the machine, the versions, the results and every repetition there."""
    plot: Path | None = None
    """Draw the curve of the section into this PNG (needs eqids[bench])."""
    cores: int = 1
    """Cores that the process pins itself to. With one, times are the CPU's, which
    other processes disturb less; with more, they are the clock's."""
    repetitions: int = 7
    """Timed runs of each contender, after one to warm up."""
    huge_pages: bool = True
    """Let all contenders allocate in huge pages, as GLIBC_TUNABLES=
    glibc.malloc.hugetlb=1 does for any program on Linux."""
    budget: float = 30.0
    """Seconds for all repetitions of one contender: slow peers are run less often, a
    peer whose warm-up takes longer only that once."""
    seed: int = 0
    """Seeds vectors, targets and queries."""

    @property
    def most_repetitions(self) -> int:
        """Timed runs of each contender."""
        return min(self.repetitions, 3) if self.quick else self.repetitions

    @property
    def most_seconds(self) -> float:
        """Wall time for all repetitions of one contender."""
        return min(self.budget, 1.0) if self.quick else self.budget

    def __post_init__(self) -> None:
        for name in ("cores", "repetitions"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")
        require(
            self.budget > 0, f"--budget is {self.budget}, wanted a number of seconds"
        )
        for name, path in (("json", self.json), ("plot", self.plot)):
            require(
                path is None or path.absolute().parent.is_dir(),
                f"--{name} {path}: its folder does not exist",
            )


@dataclass(frozen=True)
class HeadOptions(Options):
    """Time the output head alone against the size of the catalog.

    Forward and backward, and with the optimizer's update, beside the full softmax.
    """

    targets: int = 1024
    """Targets in a step, drawn from a Zipf law over items."""
    clusters_times_sqrt: float | None = None
    """Clusters as a multiple of the root of the number of items; by default as many
    as `prepare` chooses."""
    sweep_clusters: bool = False
    """Time ours with 1, 2, 4 and 8 times the root of the number of items too."""
    chunk: int = 512
    """Items whose logits the chunked full softmax holds at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("targets", "chunk"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")
        factor = self.clusters_times_sqrt
        require(
            factor is None or factor > 0,
            f"--clusters_times_sqrt is {factor}, wanted more than 0",
        )


@dataclass(frozen=True)
class TopkOptions(Options):
    """Time exact top-k against full scoring and faiss.

    On synthetic catalogs of which the peakedness is known, or on a trained one.
    """

    checkpoint: Path | None = None
    """Search a trained catalog too: DIR/STEP, or a run's DIR (its best step)."""
    data_dir: Path | None = None
    """The dataset folder of --checkpoint, by default the one of its run."""


@dataclass(frozen=True)
class CheckpointOptions(Options):
    """Time saving and restoring of sharded arrays beside Orbax and a copy of files.

    And the memory that it takes, and how long training waits for a save beside it.
    """

    cores: int = field(default_factory=num_cores)
    """Cores that the process pins itself to; by default all it may use."""
    size: float = 2.0
    """Gigabytes to save (0.05 with --quick); the disk needs four times, memory six
    times that."""
    devices: int = 8
    """CPU devices that are made up to cut the arrays over; of accelerators, all are
    used."""
    folder: Path | None = None
    """An existing folder on the disk to measure; what is written is deleted."""

    @property
    def num_bytes(self) -> int:
        """Bytes to save."""
        return int(1e9 * (min(self.size, 0.05) if self.quick else self.size))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size > 0, f"--size is {self.size}, wanted more than 0")
        require(self.devices >= 1, f"--devices is {self.devices}, wanted 1 or more")
        require(
            self.folder is None or self.folder.is_dir(),
            f"--folder {self.folder}: no such folder",
        )
