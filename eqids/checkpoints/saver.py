"""Saves in the background: training waits for a copy to host memory, not for the disk.

A train step donates its state, so a state that is saved must be copied first. On a CPU
the alternative is a step that does not donate: it writes a state into fresh memory,
whose first use takes longer than the copy into memory that the saver keeps. (A saver
that only holds a reference makes XLA copy the state inside the next step.) The copy is
left out where no step follows.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import PyTree

from eqids.checkpoints.leaves import stored_arrays
from eqids.checkpoints.lock import Lock
from eqids.checkpoints.multiprocess import all_or_none
from eqids.checkpoints.retention import Retention, latest_step, prune
from eqids.checkpoints.snapshot import Staging, held
from eqids.checkpoints.step_folder import check_absent, write_step
from eqids.checkpoints.store import describe, shards_of
from eqids.config import UserError
from sharding import is_first


class Saver:
    """Writes the checkpoints of one run into a folder that it locks; a context manager.

    A failed save is reported and the next one attempted; if the last save failed,
    leaving the context raises its error.
    """

    def __init__(
        self,
        directory: Path,
        retention: Retention | None = None,
        *,
        blocking: bool = False,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Locks the folder; if there are several processes, process 0 does and all
        wait.

        Args:
            directory: the run's folder, made if it does not exist.
            retention: which steps to keep; by default all.
            blocking: write before `save` returns, with no copy in host memory.
            report: called with a message for every failed save but the last.

        Raises:
            UserError: another run has locked the folder, or it cannot be written to.
        """
        self.directory, self._retention = directory, retention
        self._blocking, self._report = blocking, report
        self._staging, self._pool = Staging(), ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._failed: UserError | None = None
        self._lock: Lock | None = None
        with all_or_none(f"{directory} is locked"):
            if is_first():
                self._lock = Lock(directory, report)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._settle()
        finally:
            self._pool.shutdown()
            if self._lock is not None:
                self._lock.release()
        if self._failed is not None and error is None:
            raise self._failed
        self._report_failure()

    def save(
        self,
        step: int,
        tree: PyTree,
        meta: Mapping[str, Any],
        shapes: PyTree | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Waits for the save before it, copies the arrays and starts writing them.

        Args:
            step: the training step, which names the checkpoint.
            tree: jax or NumPy arrays (typed random keys too); None is no leaf. They
                may be changed, or donated, when this returns.
            meta: JSON values to record with them; see `Manifest.meta`.
            shapes: a tree of the same structure, whose leaves have the shapes to
                store, if arrays are padded for a mesh.
            keep: write the arrays themselves, without a copy: they are neither changed
                nor donated until the save has ended. (XLA's CPU client copies what is
                donated meanwhile, because NumPy holds it, and so keeps it unchanged.)

        Raises:
            UserError: the step exists already.
            TypeError: a leaf is not an array.
        """
        self._settle()
        self._report_failure()
        check_absent(self.directory / str(step))
        arrays = stored_arrays(tree, shapes)
        records = {name: describe(stored) for name, stored in arrays.items()}
        shards = shards_of(arrays)
        if keep:
            shards = held(shards)
        elif not self._blocking:
            shards = self._staging.copy(shards)

        def write() -> None:
            write_step(self.directory, step, records, shards, meta)
            if self._retention is not None:
                with all_or_none(f"steps before {step} are pruned"):
                    if is_first():
                        prune(self.directory, self._retention)

        self._running = self._pool.submit(write)
        if self._blocking:
            self._settle()

    def wait(self) -> None:
        """Waits until the last save has ended.

        Raises:
            UserError: the save failed.
        """
        self._settle()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def newest(self) -> int | None:
        """Waits until the last save has ended, and returns the newest step."""
        self._settle()
        return latest_step(self.directory)

    def _settle(self) -> None:
        """Waits until the last save has ended, and keeps its error."""
        if self._running is None:
            return
        job, self._running = self._running, None
        try:
            job.result()
        except UserError as error:
            self._failed = error

    def _report_failure(self) -> None:
        """Reports the error of the last save, if it failed."""
        if self._failed is not None:
            self._report(f"{self._failed}; training continues")
            self._failed = None


def save(
    directory: Path,
    step: int,
    tree: PyTree,
    meta: Mapping[str, Any],
    shapes: PyTree | None = None,
) -> Path:
    """Saves one step and returns its folder, `directory/step`; see `Saver`.

    Sharded arrays are written shard by shard, without gathering or copying them; lazy
    arrays are read chunk by chunk.
    """
    with Saver(directory, blocking=True) as saver:
        saver.save(step, tree, meta, shapes)
    return directory / str(step)
