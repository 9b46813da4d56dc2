"""What `python -m bench` is told; fields are flags, their texts the help."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.machine import num_cores
from eqids.cli import check_output
from eqids.config import LlamaSize, Strategy, on_unless, require


@dataclass(frozen=True)
class Options:
    """What every section of the bench is told."""

    quick: bool = False
    """Small cases, few repetitions: shows within about a minute that it works."""
    json: Path | None = None
    """Write the machine, the versions, the results and every repetition there."""
    plot: Path | None = None
    """Draw the curve of the section into this PNG (needs eqids[bench])."""
    cores: int = 1
    """Cores that the process pins itself to. With one, times are the CPU's, which
    other processes disturb less; with more, they are the clock's."""
    repetitions: int = 7
    """Timed runs of each contender, after one to warm up."""
    huge_pages: bool = on_unless(
        "Allocate in ordinary pages, all contenders, instead of huge ones "
        "(GLIBC_TUNABLES=glibc.malloc.hugetlb=1, on Linux)."
    )
    """Allocate in huge pages, all contenders, as GLIBC_TUNABLES=
    glibc.malloc.hugetlb=1 has any program do on Linux."""
    budget: float = 30.0
    """Seconds for all repetitions of one contender: slow peers are run less often, a
    peer whose warm-up takes longer only that once."""
    seed: int = 0
    """Seeds whatever is drawn."""

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
        check_output(self.json, "--json")
        check_output(self.plot, "--plot")


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
class TrainOptions(Options):
    """Time the train step beside the same model in transformers and torch.

    On dense batches of random items, and on real histories. Of flags that take
    several values, all combinations are measured; the first is what the keys are of.
    """

    cores: int = field(default_factory=num_cores)
    """Cores that the process pins itself to; by default all it may use."""
    llama_size: LlamaSize = "smollm2-135m"
    """Sizes of the Llama, whose weights are random (nano with --quick)."""
    llama_path: Path | None = None
    """Take the sizes from the config.json of this folder instead."""
    train: tuple[Strategy, ...] = ("heads",)
    """What trains: all but Llama (heads), low-rank changes of it too (lora), or
    everything (all)."""
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of Llama's computation; histories are measured in the first only."""
    on: tuple[Literal["dense", "histories"], ...] = ("dense", "histories")
    """Full rows of random items, or the histories of a dataset: packed, one in a row,
    and, by the peer, padded to the longest in a batch."""
    batch_size: tuple[int, ...] = (8,)
    """Rows in a batch; of histories, the first."""
    seq_len: tuple[int, ...] = (128,)
    """Positions in a dense row."""
    window: int = 200
    """Positions in a row of histories."""
    num_batches: int = 2
    """Packed batches of histories in one repetition."""
    num_items: int = 1_682
    """Items of the dense batches' catalog; by default as many as ML-100K has."""
    data_dir: Path | None = None
    """A dataset folder, whose histories are used; by default ML-100K, fetched if it is
    not there."""
    peers: bool = on_unless("Time ours only, without torch.")
    """Time torch too, if it is installed."""
    profile: Path | None = None
    """Leave a trace of ours in this folder, in one of its own for each case, for
    Perfetto or XProf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "seq_len"):
            _require_positive(name, *getattr(self, name))
        for name in ("window", "num_batches", "num_items"):
            _require_positive(name, getattr(self, name))
        for name in ("train", "dtype", "on"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty, wanted a value")


def _require_positive(name: str, *values: int) -> None:
    require(
        len(values) > 0 and min(values) >= 1,
        f"--{name} is {' '.join(map(str, values)) or 'empty'}, wanted 1 or more",
    )


def _require_folder(name: str, folder: Path | None) -> None:
    require(
        folder is None or folder.is_dir(), f"--{name} {folder}: there is no such folder"
    )


@dataclass(frozen=True)
class LoadOptions(Options):
    """Time the way of a pretrained Llama from safetensors to arrays.

    Beside a plain read of the files, and beside safetensors' own loader of torch.
    """

    llama_size: LlamaSize = "1b"
    """Whose sizes random weights have, in bfloat16 (smollm2-135m with --quick)."""
    llama_path: Path | None = None
    """Load this folder instead."""
    folder: Path | None = None
    """Where random weights are written and removed, by default here."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What ours casts to."""
    cores: int = 1
    """Cores that the process pins itself to; times are the clock's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_folder("folder", self.folder)
        _require_folder("llama_path", self.llama_path)

    @property
    def size_of_llama(self) -> LlamaSize:
        """Whose sizes are measured."""
        return "smollm2-135m" if self.quick else self.llama_size


@dataclass(frozen=True)
class DataOptions(Options):
    """Time the loader, with and without words, and what train steps wait for it."""

    cores: int = field(default_factory=num_cores)
    """Cores that the process pins itself to; by default all it may use."""
    data_dir: Path | None = None
    """A dataset folder, by default ML-100K, fetched if it is not there."""
    batch_size: int = 64
    """Rows in a batch."""
    seq_len: int = 50
    """Positions in a row."""
    num_batches: int = 20
    """Batches in one repetition."""
    tokens_per_item: int = 8
    """Words of an item at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "seq_len", "num_batches", "tokens_per_item"):
            _require_positive(name, getattr(self, name))


@dataclass(frozen=True)
class RecommendOptions(Options):
    """Time recommendations: many users at once, and one user, first and again."""

    cores: int = field(default_factory=num_cores)
    """Cores that the process pins itself to; by default all it may use."""
    checkpoint: Path | None = None
    """Ask this model, DIR/STEP or a run's DIR (its best step); by default nano with
    random weights."""
    data_dir: Path | None = None
    """The dataset folder, by default the one of the checkpoint's run, or else ML-100K,
    fetched if it is not there."""
    users: int = 256
    """Users who are asked for at once."""
    k: int = 10
    """Items recommended to each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("users", "k"):
            _require_positive(name, getattr(self, name))


@dataclass(frozen=True)
class AllOptions:
    """Measure every section in turn, each with its own defaults."""

    quick: bool = False
    """Small cases: ends within five minutes, and shows that the bench works."""
    json: Path | None = None
    """Write all results there, with one key for each section."""
    data_dir: Path | None = None
    """The dataset folder of sections that want one, by default ML-100K, fetched if it
    is not there."""
    seed: int = 0
    """Seeds whatever is drawn."""

    def __post_init__(self) -> None:
        check_output(self.json, "--json")


@dataclass(frozen=True)
class CompareOptions:
    """Compare two results of the bench, row by row.

    Ends with exit code 1 where our time for something grew by more than noise.
    """

    before: Path
    """What --json wrote of the one build."""
    after: Path
    """What it wrote of the other."""


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
        _require_folder("folder", self.folder)
