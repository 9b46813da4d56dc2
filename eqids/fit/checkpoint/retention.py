"""A run's folder of checkpoints: which steps it holds, the best one, which to drop."""

import shutil
from collections.abc import Collection
from pathlib import Path

import jax

from eqids.config import UserError, require
from eqids.fit.checkpoint.manifest import MANIFEST, read_manifest


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


def prune(directory: Path, keep: int, protect: Collection[int] = ()) -> None:
    """Deletes all steps but the `keep` newest and those in `protect`.

    Of many processes the first does it.
    """
    require(keep >= 1, f"keep is {keep}, wanted 1 or more")
    if jax.process_index() != 0:
        return
    for step in steps(directory)[:-keep]:
        if step not in protect:
            # Renamed first: a deletion that is cut short leaves no numbered folder.
            doomed = partial_folder(directory, step)
            shutil.rmtree(doomed, ignore_errors=True)
            (directory / str(step)).rename(doomed)
            shutil.rmtree(doomed)


def resolve(path: Path) -> Path:
    """What `--checkpoint` means: DIR/STEP itself, or the best step of a run's DIR.

    Raises:
        UserError: there is no such folder, or no checkpoint in it.
    """
    if not path.is_dir():
        found = steps(path.parent)
        hint = f" ({path.parent} has steps {found})" if found else ""
        raise UserError(f"{path}: no such folder, wanted a checkpoint DIR/STEP{hint}")
    if (path / MANIFEST).exists():
        return path
    step = best_step(path)
    if step is None:
        raise UserError(
            f"{path}: neither a checkpoint (it has no {MANIFEST}) nor a run with a "
            "committed step, wanted DIR/STEP or DIR"
        )
    return path / str(step)
