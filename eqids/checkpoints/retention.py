"""A run's folder of checkpoints: which steps it holds, the best one, which to drop."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from eqids.checkpoints.manifest import MANIFEST, read_manifest
from eqids.config import UserError, require


def steps(directory: Path) -> list[int]:
    """The committed steps in `directory`, ascending; none where it does not exist."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def partial_folder(directory: Path, step: int) -> Path:
    """Where a step stands while it is being written or deleted."""
    return directory / f".{step}.partial"


def partials(directory: Path) -> list[Path]:
    """Folders of saves and deletions that have not ended."""
    found = directory.glob(".*.partial")
    return sorted(path for path in found if path.name[1:-8].isdecimal())


def latest_step(directory: Path) -> int | None:
    """The newest committed step, or None."""
    return max(steps(directory), default=None)


def best_step(directory: Path) -> int | None:
    """The step with the highest `meta['score']`, the older of equals, or None.

    Steps without a score are ignored, unless none has one: then it is the newest.

    Raises:
        UserError: a step's manifest is damaged, so that the best is not known.
    """
    scored = []
    for step in steps(directory):
        score = read_manifest(directory / str(step)).meta.get("score")
        if score is not None:
            scored.append((score, -step))
    return -max(scored)[1] if scored else latest_step(directory)


@dataclass(frozen=True)
class Retention:
    """Which steps stay; the best on validation always does."""

    keep: int = 3
    """How many of the newest."""
    keep_every: int | None = None
    """Steps that this divides stay as well."""

    def __post_init__(self) -> None:
        require(self.keep >= 1, f"keep is {self.keep}, wanted 1 or more")
        every = self.keep_every
        require(every is None or every >= 1, f"keep_every is {every}, wanted 1 or more")


def prune(directory: Path, retention: Retention) -> None:
    """Deletes the steps that need not stay.

    Raises:
        UserError: a step's manifest is damaged, so that the best is not known;
            nothing is deleted.
        OSError: the disk refused.
    """
    best, every = best_step(directory), retention.keep_every
    for step in steps(directory)[: -retention.keep]:
        if step != best and (every is None or step % every != 0):
            # Renamed first: a deletion that is cut short leaves no numbered folder.
            doomed = partial_folder(directory, step)
            shutil.rmtree(doomed, ignore_errors=True)
            (directory / str(step)).rename(doomed)
            shutil.rmtree(doomed)


def resolve(path: Path, named_by: str = "--checkpoint") -> Path:
    """What `--checkpoint` means: DIR/STEP itself, or the best step of a run's DIR.

    Args:
        path: what it was given.
        named_by: the flag that names it, for messages.

    Raises:
        UserError: there is no such folder, or no checkpoint in it.
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
            f"{path}: neither a checkpoint (it has no {MANIFEST}) nor a run with a "
            f"committed step, wanted DIR/STEP or DIR, see {named_by}"
        )
    return path / str(step)
