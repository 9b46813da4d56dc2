"""Saving beside training: a step waits for a copy to the host, not for the disk."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import PyTree

from eqids.checkpoints.agreement import together
from eqids.checkpoints.leaves import stored_arrays
from eqids.checkpoints.lock import Lock
from eqids.checkpoints.retention import Retention, latest_step, prune
from eqids.checkpoints.snapshot import Staging
from eqids.checkpoints.step_folder import check_absent, write_step
from eqids.checkpoints.store import describe, shards_of
from eqids.config import UserError
from sharding import is_first


class Saver:
    """Writes the checkpoints of one run, alone in its folder; a context manager.

    A save that fails is told of when the next one begins, or at the end, and never
    keeps later ones from being tried.
    """

    def __init__(
        self,
        directory: Path,
        retention: Retention | None = None,
        *,
        blocking: bool = False,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Takes the folder; of many processes the first does, and all wait for it.

        Args:
            directory: the run's folder, made if it does not exist.
            retention: which steps to keep; by default all.
            blocking: write before `save` returns, with no copy in host memory.
            report: hears of saves that failed.

        Raises:
            UserError: another run holds the folder, or it cannot be written to.
        """
        self.directory, self._retention = directory, retention
        self._blocking, self._report = blocking, report
        self._staging, self._pool = Staging(), ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._failed: UserError | None = None
        self._lock: Lock | None = None
        with together(f"{directory} is taken"):
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
        self._tell()

    def save(
        self,
        step: int,
        tree: PyTree,
        meta: Mapping[str, Any],
        shapes: PyTree | None = None,
    ) -> None:
        """Saves a step, once the save before it has ended; returns when it is copied.

        Args:
            step: the training step, which names the checkpoint.
            tree: jax or NumPy arrays (typed random keys too); None is no leaf. They
                may be changed, or donated, when this returns.
            meta: facts to keep with them, as JSON values; see `Manifest.meta`.
            shapes: a tree like `tree` of the shapes to store, where arrays are longer
                to make a mesh divide.

        Raises:
            UserError: the step is there already.
            TypeError: a leaf is no array.
        """
        self._settle()
        self._tell()
        check_absent(self.directory / str(step))
        arrays = stored_arrays(tree, shapes)
        records = {name: describe(stored) for name, stored in arrays.items()}
        shards = shards_of(arrays)
        if not self._blocking:
            shards = self._staging.copy(shards)

        def write() -> None:
            write_step(self.directory, step, records, shards, meta)
            if self._retention is not None:
                with together(f"steps before {step} are pruned"):
                    if is_first():
                        prune(self.directory, self._retention)

        self._running = self._pool.submit(write)
        if self._blocking:
            self._settle()

    def wait(self) -> None:
        """Returns when the last save has ended.

        Raises:
            UserError: it failed.
        """
        self._settle()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def newest(self) -> int | None:
        """Returns the newest step in the folder, once the save under way has ended."""
        self._settle()
        return latest_step(self.directory)

    def _settle(self) -> None:
        """Waits for the save under way."""
        if self._running is None:
            return
        job, self._running = self._running, None
        try:
            job.result()
        except UserError as error:
            self._failed = error

    def _tell(self) -> None:
        """Reports the last save if it failed."""
        if self._failed is not None:
            self._report(f"{self._failed}; training goes on")
            self._failed = None


def save(
    directory: Path,
    step: int,
    tree: PyTree,
    meta: Mapping[str, Any],
    shapes: PyTree | None = None,
) -> Path:
    """Saves one step and returns its folder, `directory/step`; see `Saver`.

    Sharded arrays are written shard by shard, never gathered and never copied.
    """
    with Saver(directory, blocking=True) as saver:
        saver.save(step, tree, meta, shapes)
    return directory / str(step)
