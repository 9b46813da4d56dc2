"""The checkpoints in a run's folder: list them, find the best, delete old ones."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from eqids.checkpoints.manifest import MANIFEST, read_manifest
from eqids.config import UserError, require

DAMAGED_SUFFIX = ".damaged"
"""Ends the name of a step's folder once the step was found damaged."""


def steps(directory: Path) -> list[int]:
    """Returns the steps in a run's folder, ascending; none if it does not exist."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def partial_folder(directory: Path, step: int) -> Path:
    """Returns the folder of a step while it is written or deleted."""
    return directory / f".{step}.partial"


def partials(directory: Path) -> list[Path]:
    """Returns the folders of saves and deletions that are unfinished."""
    found = directory.glob(".*.partial")
    return sorted(path for path in found if path.name[1:-8].isdecimal())


def damaged(directory: Path) -> list[Path]:
    """Returns the folders of steps that were set aside as damaged."""
    return sorted(directory.glob(f"[0-9]*{DAMAGED_SUFFIX}*"))


def latest_step(directory: Path) -> int | None:
    """Returns the newest step, or None if there is none."""
    return max(steps(directory), default=None)


def best_step(directory: Path) -> int | None:
    """Returns the step with the highest score, or None if there is no step.

    Of equal scores the older step counts. Steps without a score are ignored; if no
    step has one, the newest is returned.

    Raises:
        UserError: the manifest of a step is damaged.
    """
    scored = []
    for step in steps(directory):
        score = read_manifest(directory / str(step)).meta.get("score")
        if score is not None:
            scored.append((score, -step))
    return -max(scored)[1] if scored else latest_step(directory)


@dataclass(frozen=True)
class Retention:
    """Which steps are kept; the best on validation always is."""

    keep: int = 3
    """How many of the newest steps."""
    keep_every: int | None = None
    """Also keep every N-th step."""

    def __post_init__(self) -> None:
        require(self.keep >= 1, f"--keep is {self.keep}, wanted 1 or more")
        every = self.keep_every
        require(
            every is None or every >= 1, f"--keep_every is {every}, wanted 1 or more"
        )


def prune(directory: Path, retention: Retention) -> None:
    """Deletes the steps that retention does not keep.

    Raises:
        UserError: the manifest of a step is damaged, so that the best step is unknown;
            nothing is deleted.
        OSError: a folder could not be deleted.
    """
    best, every = best_step(directory), retention.keep_every
    for step in steps(directory)[: -retention.keep]:
        if step != best and (every is None or step % every != 0):
            # Renamed first: an interrupted deletion must leave no numbered folder.
            doomed = partial_folder(directory, step)
            shutil.rmtree(doomed, ignore_errors=True)
            (directory / str(step)).rename(doomed)
            shutil.rmtree(doomed)


def resolve(path: Path, named_by: str = "--checkpoint") -> Path:
    """Returns the checkpoint that a path means: DIR/STEP, or the best step of DIR.

    Args:
        path: the value of the flag.
        named_by: the flag, for messages.

    Raises:
        UserError: the folder does not exist or holds no checkpoint.
    """
    if not path.is_dir():
        found = steps(path.parent)
        hint = f" ({path.parent} has steps {found})" if found else ""
        what = "is a file" if path.is_file() else "no such folder"
        raise UserError(
            f"{path}: {what}, wanted a checkpoint DIR/STEP{hint}, see {named_by}"
        )
    if (path / MANIFEST).exists():
        return path
    step = best_step(path)
    if step is None:
        raise UserError(
            f"{path} is neither a checkpoint (it has no {MANIFEST}) nor a run with "
            f"a saved step, wanted DIR/STEP or DIR, see {named_by}"
        )
    return path / str(step)
