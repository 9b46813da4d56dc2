"""Damaged steps: found, told of, and set aside, so that an older one can serve."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxtyping import PyTree

from eqids.checkpoints.agreement import together
from eqids.checkpoints.manifest import (
    DamageError,
    raise_first,
    read_manifest,
    size_problems,
    step_label,
)
from eqids.checkpoints.retention import steps
from eqids.checkpoints.step_folder import restore
from eqids.config import UserError
from sharding import is_first

Tree = TypeVar("Tree", bound=PyTree)

_SUFFIX = ".damaged"


def damaged(directory: Path) -> list[Path]:
    """Steps that were set aside: folders `STEP.damaged`."""
    return sorted(directory.glob(f"[0-9]*{_SUFFIX}*"))


def recover(directory: Path, report: Callable[[str], None]) -> None:
    """Sets aside the steps that can be seen to be damaged without reading arrays.

    All processes of a run call it.

    Args:
        directory: the run's folder, which this run holds.
        report: hears of every step that is set aside.

    Raises:
        UserError: no step is left.
    """
    for step in steps(directory):
        path = directory / str(step)
        try:
            with together(f"a look at {path}", DamageError):
                raise_first(size_problems(path, read_manifest(path)))
        except DamageError as error:
            set_aside(path, error, report)
    if damaged(directory) and not steps(directory):
        raise none_left(directory)


def none_left(directory: Path) -> UserError:
    """The error of a folder whose checkpoints are all damaged."""
    names = ", ".join(path.name for path in damaged(directory))
    return UserError(
        f"{directory} has damaged checkpoints only ({names}), wanted a sound one to go "
        "on from; remove them to start anew, or take another --checkpoint_dir"
    )


def restore_sound(
    directory: Path,
    choose: Callable[[Path], int | None],
    like: Tree,
    shapes: PyTree,
    report: Callable[[str], None],
    prefix: str = "",
) -> tuple[int, Tree]:
    """Restores a step, or where it turns out to be damaged, the next that is chosen.

    Damaged ones are set aside, loudly. Of many processes all call it, and all take
    the same.

    Args:
        directory: the run's folder, which this run holds.
        choose: returns a step of it, `latest_step` or `best_step`.
        like: as for `restore`, and so are `shapes` and `prefix`.
        shapes: of what is stored.
        report: hears of damaged steps.
        prefix: of what is wanted.

    Returns:
        The step, and what was restored of it.

    Raises:
        UserError: no sound step is left.
    """
    while (step := choose(directory)) is not None:
        path = directory / str(step)
        try:
            with together(f"{path} is read, {prefix or 'all of it'}", DamageError):
                return step, restore(path, like, prefix, shapes)
        except DamageError as error:
            set_aside(path, error, report)
    raise none_left(directory)


def set_aside(path: Path, why: Exception, report: Callable[[str], None]) -> None:
    """Renames a step to `STEP.damaged`, where nothing takes it for a checkpoint.

    Nothing of it is deleted.

    Raises:
        UserError: it cannot be renamed.
    """
    target, number = path.with_name(path.name + _SUFFIX), 1
    try:
        with together(f"{path} is set aside"):
            # Only the first looks: to a slower one its new name would seem taken.
            if is_first():
                while target.exists():
                    number += 1
                    target = path.with_name(f"{path.name}{_SUFFIX}-{number}")
                path.rename(target)
    except OSError as error:
        raise UserError(f"{step_label(path)} cannot be renamed: {error}") from error
    report(f"{why}; it is set aside as {target}")
