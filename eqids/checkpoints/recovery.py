"""Sets damaged steps aside, so that a run continues from an older one."""

from collections.abc import Callable
from pathlib import Path

from jaxtyping import PyTree

from eqids.checkpoints.manifest import (
    DamageError,
    raise_first,
    read_manifest,
    size_problems,
    step_label,
)
from eqids.checkpoints.multiprocess import all_or_none
from eqids.checkpoints.retention import DAMAGED_SUFFIX, damaged, steps
from eqids.checkpoints.step_folder import Restored, restore
from eqids.config import UserError
from sharding import is_first


def recover(directory: Path, report: Callable[[str], None]) -> None:
    """Sets aside steps whose manifest or file sizes are wrong; reads no arrays.

    All processes of a run must call it.

    Args:
        directory: the run's folder, which the run has locked.
        report: called with a message for every step that is set aside.

    Raises:
        UserError: all steps are damaged.
    """
    for step in steps(directory):
        path = directory / str(step)
        try:
            with all_or_none(f"{path} is checked", DamageError):
                raise_first(size_problems(path, read_manifest(path)))
        except DamageError as error:
            _set_aside(path, error, report)
    if damaged(directory) and not steps(directory):
        raise _none_left(directory)


def restore_sound(
    directory: Path,
    choose: Callable[[Path], int | None],
    like: Restored,
    shapes: PyTree,
    report: Callable[[str], None],
    prefix: str = "",
) -> tuple[int, Restored]:
    """Restores the chosen step; if it is damaged, sets it aside and chooses again.

    All processes of a run must call it; they restore the same step.

    Args:
        directory: the run's folder, which the run has locked.
        choose: `latest_step` or `best_step`.
        like: see `restore`.
        shapes: see `restore`.
        report: called with a message for every step that is set aside.
        prefix: see `restore`.

    Returns:
        The step and the restored tree.

    Raises:
        UserError: all steps are damaged.
    """
    while (step := choose(directory)) is not None:
        path = directory / str(step)
        try:
            with all_or_none(f"{path} is read, {prefix or 'all of it'}", DamageError):
                return step, restore(path, like, prefix, shapes)
        except DamageError as error:
            _set_aside(path, error, report)
    raise _none_left(directory)


def _set_aside(path: Path, why: Exception, report: Callable[[str], None]) -> None:
    """Renames a step to `STEP.damaged`; nothing is deleted.

    Raises:
        UserError: the folder cannot be renamed.
    """
    target, number = path.with_name(path.name + DAMAGED_SUFFIX), 1
    try:
        with all_or_none(f"{path} is set aside"):
            # Only one process renames: a slower one would find the new name in use.
            if is_first():
                while target.exists():
                    number += 1
                    target = path.with_name(f"{path.name}{DAMAGED_SUFFIX}-{number}")
                path.rename(target)
    except OSError as error:
        raise UserError(f"{step_label(path)} cannot be renamed: {error}") from error
    report(f"{why}; it is set aside as {target}")


def _none_left(directory: Path) -> UserError:
    names = ", ".join(path.name for path in damaged(directory))
    return UserError(
        f"{directory} has damaged checkpoints only ({names}), wanted an undamaged one; "
        "remove them to start from step 0, or give another --checkpoint_dir"
    )
