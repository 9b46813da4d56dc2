"""The flags of the commands of `python -m eqids.checkpoint`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ListStepsConfig:
    """List the steps of a run: size, date, score (NDCG@10 on validation), the best."""

    dir: Path
    """The run's folder."""


@dataclass(frozen=True)
class VerifyConfig:
    """Read and hash every file and every array; a damaged step ends with code 2."""

    path: Path
    """The checkpoint, DIR/STEP, or DIR for all of a run."""


@dataclass(frozen=True)
class ShowStepConfig:
    """Show one checkpoint: its metadata, and arrays with shapes, dtypes and sizes."""

    path: Path
    """The checkpoint, DIR/STEP, or DIR for a run's best."""


@dataclass(frozen=True)
class ExportConfig:
    """Write the trained arrays to one safetensors file: Llama's tensors under Hugging
    Face's names; items, adapters and softmax under eqids."""

    path: Path
    """The checkpoint, DIR/STEP, or DIR for a run's best."""
    output: Path
    """The file to write, such as weights.safetensors."""
