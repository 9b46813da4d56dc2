"""Flags of `python -m bench load`, `prepare`, `data` and `checkpoint`."""

from dataclasses import dataclass
from pathlib import Path

from bench.options import Options, require_folder
from eqids.config import (
    ABOVE_ZERO,
    ONE_OR_MORE,
    ZERO_OR_MORE,
    Dtype,
    LlamaSize,
    check_flags,
    grouped,
)
from eqids.io.cores import num_cores


@dataclass(frozen=True)
class LoadOptions(Options):
    """Time the loading of a pretrained Llama, from safetensors to arrays.

    Beside a plain read of the files, and beside safetensors' own loader for torch.
    """

    llama_size: LlamaSize = "1b"
    """Size of a Llama of random weights in bfloat16 (smollm2-135m with --quick)."""
    llama_path: Path | None = None
    """In place of --llama_size, the folder to load."""
    folder: Path | None = None
    """Folder where random weights are written and removed; by default this one."""
    dtype: Dtype = "bfloat16"
    """Dtype that ours converts the weights to."""
    cores: int = grouped("measurement", 1)
    """Pin the process to this many cores; wall time is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_folder("--folder", self.folder)
        require_folder("--llama_path", self.llama_path)

    @property
    def measured_size(self) -> LlamaSize:
        """The size of the Llama of random weights."""
        return "smollm2-135m" if self.quick else self.llama_size


@dataclass(frozen=True)
class PrepareSpeedOptions(Options):
    """Time the preparation of a dataset from generated events, beside pandas.

    Pandas makes the ordered and split histories alone, and so does one row of ours;
    others make the whole dataset folder, on DuckDB and, where pyspark and Java are
    installed, on Spark.
    """

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the process to this many cores; by default all it may use."""
    repetitions: int = grouped("measurement", 3)
    """Timed runs of each contender, after one to warm up."""
    events: tuple[int, ...] = (1_000_000, 10_000_000)
    """Numbers of events to measure, ascending (20,000 with --quick)."""
    most_pandas: int = 10_000_000
    """Largest number of events for pandas, which holds all of them in memory several
    times."""
    most_spark: int = 10_000_000
    """Largest number of events for Spark, in this machine's cores (1 leaves it out)."""
    folder: Path | None = None
    """An existing folder for the generated events and the datasets, which are deleted;
    by default that of temporary files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "events most_pandas most_spark", ONE_OR_MORE)
        require_folder("--folder", self.folder)

    @property
    def measured(self) -> list[int]:
        """Numbers of events, ascending."""
        return [20_000] if self.quick else sorted(set(self.events))


@dataclass(frozen=True)
class DataOptions(Options):
    """Time the loader, with and without text, and how long train steps wait for it."""

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the process to this many cores; by default all it may use."""
    data_dir: Path | None = None
    """The dataset folder; by default ML-100K, downloaded if it is missing."""
    batch_size: int = 64
    """Rows in a batch."""
    seq_len: int = 50
    """Positions in a row."""
    num_batches: int = 20
    """Batches in one repetition."""
    tokens_per_item: int = 8
    """Largest number of text tokens of an item; 0 measures no text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "batch_size seq_len num_batches", ONE_OR_MORE)
        check_flags(self, "tokens_per_item", ZERO_OR_MORE)


@dataclass(frozen=True)
class CheckpointOptions(Options):
    """Time saving and restoring of sharded arrays beside Orbax and a copy of files.

    Also measured: the memory that it takes, and how long training waits for a save.
    """

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the process to this many cores; by default all it may use."""
    size: float = 2.0
    """Gigabytes to save (0.05 with --quick). The disk needs four times as much, memory
    seven times."""
    devices: int = 8
    """Fake CPU devices to shard the arrays over; of accelerators, all are used."""
    folder: Path | None = None
    """An existing folder on the disk to measure; what is written there is deleted."""

    @property
    def num_bytes(self) -> int:
        """Bytes to save."""
        return int(1e9 * (min(self.size, 0.05) if self.quick else self.size))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "size", ABOVE_ZERO)
        check_flags(self, "devices", ONE_OR_MORE)
        require_folder("--folder", self.folder)
