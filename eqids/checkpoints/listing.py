"""What `python -m eqids.checkpoint` shows of a run's folder, as values."""

from dataclasses import dataclass
from pathlib import Path

from eqids.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from eqids.checkpoints.retention import best_step, damaged, partials, steps
from eqids.config import UserError, require


@dataclass(frozen=True)
class ListedStep:
    """One step of a run.

    Attributes:
        step: the training step.
        manifest: the step's manifest, or the error if it cannot be read.
        best: whether it is the best step on validation.
    """

    step: int
    manifest: Manifest | UserError
    best: bool


def list_steps(directory: Path) -> list[ListedStep]:
    """Returns the steps of a run, ascending.

    If a manifest cannot be read, no step is marked as best, because that step may be
    the best.

    Raises:
        UserError: the folder does not exist or holds no checkpoint.
    """
    manifests: dict[int, Manifest | UserError] = {}
    for step in run_steps(directory):
        try:
            manifests[step] = read_manifest(directory / str(step))
        except UserError as error:
            manifests[step] = error
    sound = all(isinstance(found, Manifest) for found in manifests.values())
    best = best_step(directory) if sound else None
    return [ListedStep(step, found, step == best) for step, found in manifests.items()]


def run_steps(directory: Path) -> list[int]:
    """Returns the steps of a run, ascending.

    Raises:
        UserError: the folder does not exist or holds no checkpoint, damaged and
            unfinished ones included.
    """
    require(directory.is_dir(), f"{directory}: no such folder, wanted a run's folder")
    found = steps(directory)
    require(
        bool(found or partials(directory) or damaged(directory)),
        f"{directory}: no checkpoint in it, wanted a run's folder",
    )
    return found


def is_step(path: Path) -> bool:
    """Returns whether a folder is one checkpoint, DIR/STEP, and not a run, DIR.

    Raises:
        UserError: the folder does not exist.
    """
    require(path.is_dir(), f"{path}: no such folder, wanted DIR or DIR/STEP")
    return (path / MANIFEST).exists() or (path.name.isdecimal() and not steps(path))


def verified_bytes(manifest: Manifest) -> int:
    """Returns how many bytes `verify` reads of a checkpoint."""
    files = sum(file.size - file.start for file in manifest.files.values())
    return files + sum(record.num_bytes for record in manifest.arrays.values())
