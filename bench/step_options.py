"""Flags of `python -m bench train` and `python -m bench head`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.options import Options
from eqids.config import (
    ABOVE_ZERO,
    ONE_OR_MORE,
    Dtype,
    LlamaSize,
    Strategy,
    check_flags,
    grouped,
    on_unless,
    require,
)
from eqids.io.cores import num_cores


@dataclass(frozen=True)
class HeadOptions(Options):
    """Time the output head alone against the size of the catalog.

    Forward and backward, and with the optimizer's update, beside the full softmax.
    """

    targets: int = 1024
    """Targets in a step, drawn from a Zipf law over items."""
    clusters_times_sqrt: float | None = None
    """Number of clusters as a multiple of the square root of the number of items; by
    default as many as `prepare` chooses."""
    sweep_clusters: bool = False
    """Time ours with 1, 2, 4 and 8 times the square root of the number of items too."""
    chunk: int = 512
    """Items whose logits the chunked full softmax holds at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "targets chunk", ONE_OR_MORE)
        check_flags(self, "clusters_times_sqrt", ABOVE_ZERO)


@dataclass(frozen=True)
class TrainOptions(Options):
    """Time the train step beside the same model in transformers and torch.

    On dense batches of random items, and on real histories. Flags that take several
    values are measured in all combinations; the keys are of the first values.
    """

    cores: int = grouped("measurement", factory=num_cores)
    """Pin the process to this many cores; by default all it may use."""
    llama_size: LlamaSize = "smollm2-135m"
    """Size of the Llama, whose weights are random (nano with --quick)."""
    llama_path: Path | None = None
    """In place of --llama_size, a folder whose config.json has the sizes."""
    train: tuple[Strategy, ...] = ("heads",)
    """What trains: everything but Llama (heads), low-rank changes of it too (lora), or
    everything (all)."""
    dtype: tuple[Dtype, ...] = ("float32", "bfloat16")
    """Compute dtype of Llama; histories are measured with the first only."""
    on: tuple[Literal["dense", "histories"], ...] = ("dense", "histories")
    """Batches to train on: full rows of random items, or a dataset's histories: packed,
    one in a row, and, for the peer, padded to the longest in a batch."""
    batch_size: tuple[int, ...] = (8,)
    """Rows in a batch; histories are measured with the first only."""
    seq_len: tuple[int, ...] = (128,)
    """Positions in a dense row."""
    window: int = 200
    """Positions in a row of histories."""
    num_batches: int = 2
    """Packed batches of histories in one repetition."""
    num_items: int = 1_682
    """Items in the catalog of dense batches; by default as many as ML-100K has."""
    data_dir: Path | None = None
    """Dataset folder whose histories are used; by default ML-100K, downloaded if it is
    missing."""
    peers: bool = on_unless("Time ours only, without torch.")
    """Time torch too, if it is installed."""
    profile: Path | None = None
    """Write a trace of ours for each case to this folder, for Perfetto or XProf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "batch_size seq_len window num_batches num_items"
        check_flags(self, names, ONE_OR_MORE)
        for name in ("train", "dtype", "on"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty, wanted a value")
