"""A run's folder: locked, recovered, and checked before the run starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eqids.checkpoints import (
    LOCK,
    Retention,
    Saver,
    latest_step,
    read_manifest,
    recover,
    resolve,
)
from eqids.cli import warn
from eqids.config import ItemOptimizer, RunConfig, TrainConfig, require
from eqids.data import Dataset
from eqids.runs.same_catalog import check_catalog_version


@contextmanager
def locked_folder(config: RunConfig) -> Iterator[Saver]:
    """Locks a run's folder and sets damaged checkpoints aside; yields its saver.

    Raises:
        UserError: another run has locked the folder, it cannot be written to, all of
            its checkpoints are damaged, or --fresh is given and it is not empty.
    """
    flags, folder = config.flags, config.checkpoint_dir
    retention = Retention(flags.keep, flags.keep_every)
    with Saver(folder, retention, blocking=flags.save_blocking, report=warn) as saver:
        if flags.fresh:
            check_fresh(folder)
        recover(folder, warn)
        yield saver


def check_fresh(folder: Path) -> None:
    """Raises UserError if a run's folder holds anything but a lock."""
    found = folder.iterdir() if folder.exists() else ()
    names = {path.name for path in found} - {LOCK}
    require(
        not names,
        f"--fresh: {folder} is not empty, it holds {', '.join(sorted(names)[:5])}; "
        "wanted a new --checkpoint_dir, or no --fresh to resume the run in it",
    )


def check_start(flags: TrainConfig, folder: Path, dataset: Dataset) -> None:
    """Requires that a run starts from a checkpoint of the dataset's own catalog.

    Args:
        flags: the run's flags.
        folder: the folder of its checkpoints.
        dataset: the dataset that it trains on.

    Raises:
        UserError: the checkpoint has an older version of the catalog; the message names
            the command that migrates it.
    """
    newest, path = latest_step(folder), None
    if newest is not None:
        path = folder / str(newest)
    elif flags.load_checkpoint is not None:
        path = resolve(flags.load_checkpoint, "--load_checkpoint")
    if path is not None:
        check_catalog_version(path, read_manifest(path).meta, dataset)


def recorded_counts(flags: TrainConfig, folder: Path) -> bool:
    """Returns --counts; a run whose checkpoints have no counts is resumed without.

    So runs that were started before there were counts can be resumed.

    Args:
        flags: the run's flags.
        folder: the folder of its checkpoints.
    """
    newest = latest_step(folder)
    if not flags.counts or newest is None:
        return flags.counts
    config = read_manifest(folder / str(newest)).meta["config"]
    return bool(config["flags"]["counts"])


def recorded_item_optimizer(flags: TrainConfig, folder: Path) -> ItemOptimizer:
    """Returns --item_optimizer; a resumed run's `auto` means what its checkpoints
    record.

    Otherwise `auto` could choose another optimizer once the catalog has grown.

    Args:
        flags: the run's flags.
        folder: the folder of its checkpoints.
    """
    newest = latest_step(folder)
    if flags.item_optimizer != "auto" or newest is None:
        return flags.item_optimizer
    config = read_manifest(folder / str(newest)).meta["config"]
    recorded: ItemOptimizer = config["flags"]["item_optimizer"]
    return recorded
