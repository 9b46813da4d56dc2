"""Recommends to all users of a file, part by part, and continues after a kill."""

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from eqids.checkpoints import LOCK
from eqids.checkpoints.lock import Lock
from eqids.config import RecommendConfig, UserError, require
from eqids.data.files import ITEMS_FILE
from eqids.data.raw.sorted_histories import sort_histories
from eqids.inference.allowed_items import allowed_by_files
from eqids.inference.bulk.bulk_manifest import (
    MANIFEST_FILE,
    BulkManifest,
    BulkPart,
    job_of,
    read_bulk_manifest,
    write_manifest,
)
from eqids.inference.bulk.history_parts import (
    HistoryPart,
    PartBounds,
    part_bounds,
    read_part,
)
from eqids.inference.histories import History
from eqids.inference.recommender import Recommender
from eqids.inference.request_times import asked_now
from eqids.io.atomic import new_file, sync
from eqids.io.digests import file_sha256

_WORK = "_work"
"""Folder of the sorted input; it is removed when all parts are complete."""
_JOB, _POPULAR = b"eqids_job", b"eqids_popular"
"""Keys of a part's metadata: `BulkJob.digest` and `BulkPart.num_popular`."""


@contextmanager
def open_bulk(
    recommender: Recommender, config: RecommendConfig, report: Callable[[str], None]
) -> Iterator["BulkRun"]:
    """Locks the folder --output, and starts or continues the job in it.

    Args:
        recommender: the model.
        config: the flags.
        report: receives messages and warnings.

    Raises:
        UserError: the folder belongs to another job or holds other files, another
            process uses it, or the input is invalid.
    """
    folder = config.output
    assert folder is not None
    allowed = allowed_by_files(
        recommender.dataset, config.allow, config.deny, report
    ).places
    lock = Lock(folder, report, "--output")
    try:
        manifest = _manifest(folder, recommender, config, report)
        yield BulkRun(recommender, config, manifest, allowed, report)
    finally:
        lock.release()


def _manifest(
    folder: Path,
    recommender: Recommender,
    config: RecommendConfig,
    report: Callable[[str], None],
) -> BulkManifest:
    """The manifest of a folder that belongs to the job, with the sorted input."""
    if config.overwrite:
        _clear(folder)
    job = job_of(config, recommender.opened)
    manifest = read_bulk_manifest(folder, job)
    _remove_partial(folder)
    parts = [file for file in _own_files(folder) if file.name != MANIFEST_FILE]
    for file in parts:
        require(
            manifest is not None and _job_of_part(file) == job.digest.encode(),
            f"{file} is no part of this job: choose another --output, or add "
            "--overwrite to replace the folder",
        )
    if manifest is not None:
        complete = len(parts) == len(manifest.rows) - 1
        if complete or _sorted_file(folder).exists():
            return manifest
    num_unknown = _sort(folder, recommender, config, report)
    bounds = part_bounds(_sorted_file(folder), job.users_of_part)
    if manifest is None:
        manifest = BulkManifest(
            job=job,
            input=str(config.input),
            model=str(recommender.opened.path),
            requested_at=int(time.time()),
            num_unknown=num_unknown,
            rows=bounds.rows,
            users=bounds.users,
        )
        write_manifest(folder, manifest)
    return manifest


def _sort(
    folder: Path,
    recommender: Recommender,
    config: RecommendConfig,
    report: Callable[[str], None],
) -> int:
    """Sorts the input, and returns the number of events of unknown items."""
    assert config.input is not None
    report(f"sorting {config.input}")
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    (folder / _WORK).mkdir()
    try:
        with new_file(_sorted_file(folder)) as partial:
            num_unknown = sort_histories(
                config.input, partial, recommender.dataset, report,
                skip_unknown=config.unknown == "skip",
                request_time=recommender.reads_request_time,
            )  # fmt: skip
            sync(partial)
    except UserError:
        shutil.rmtree(folder / _WORK, ignore_errors=True)
        raise
    return num_unknown


def _job_of_part(file: Path) -> bytes | None:
    """The digest of the job that made a part, or None for a damaged file."""
    try:
        return (pq.read_metadata(file).metadata or {}).get(_JOB)
    except (pa.ArrowException, OSError):
        return None


def _remove_partial(folder: Path) -> None:
    """Removes the files that a killed run was writing."""
    for file in _own_files(folder):
        if file.name.startswith("."):
            file.unlink()


def _sorted_file(folder: Path) -> Path:
    return folder / _WORK / "sorted.parquet"


def _own_files(folder: Path) -> list[Path]:
    """The files of a folder of recommendations.

    Raises:
        UserError: the folder holds other files too.
    """
    own = rf"\.?part-\d+\.parquet(\.partial-\d+)?|\.?{MANIFEST_FILE}(\.partial-\d+)?"
    files = [file for file in folder.iterdir() if file.name not in (LOCK, _WORK)]
    strange = sorted(file.name for file in files if not re.fullmatch(own, file.name))
    require(
        not strange,
        f"--output {folder} holds {strange[0] if strange else ''!r}, which is no file "
        "of recommendations: choose another --output",
    )
    return sorted(files)


def _clear(folder: Path) -> None:
    """Removes the files of a job, the manifest first."""
    for file in _own_files(folder):
        file.unlink()
    shutil.rmtree(folder / _WORK, ignore_errors=True)


class BulkRun:
    """The recommendations of one folder, some of them not made yet.

    A part is a function of the job and its number. It appears under its name when it
    is complete and on the disk, so that a killed run loses only the part it was at.
    """

    def __init__(
        self,
        recommender: Recommender,
        config: RecommendConfig,
        manifest: BulkManifest,
        allowed: Bool[np.ndarray, "cluster place"],
        report: Callable[[str], None],
    ):
        """Made by `open_bulk`."""
        assert config.output is not None
        self.folder = config.output
        self._recommender = recommender
        self._config = config
        self._manifest = manifest
        self._allowed = allowed
        self._report = report
        self._bounds = PartBounds(manifest.rows, manifest.users)
        self._digest = manifest.job.digest.encode()

    @property
    def num_users(self) -> int:
        """The users of all parts."""
        return self._manifest.users[-1]

    @property
    def num_unknown(self) -> int:
        """Events that were left out."""
        return self._manifest.num_unknown

    def missing(self) -> list[int]:
        """Returns the numbers of the parts that are not complete."""
        return [part for part in self._numbers() if not self._path(part).exists()]

    def num_users_of(self, part: int) -> int:
        """Returns the number of users of a part."""
        return self._manifest.users[part + 1] - self._manifest.users[part]

    def write(self, part: int, advance: Callable[[int], object]) -> None:
        """Makes a part.

        Args:
            part: its number.
            advance: receives the number of users after every chunk.
        """
        found = read_part(_sorted_file(self.folder), self._bounds, part)
        histories = self._requested(found.histories)
        by_length = np.argsort([len(one.slots) for one in histories], kind="stable")
        ordered = [histories[number] for number in by_length]
        frames, left = [], len(ordered)
        seen, k = not self._config.keep_seen, self._config.k
        for frame in self._recommender.search(
            ordered, k, filter_seen=seen, allowed=self._allowed
        ):
            frames.append(frame)
            num_users = int((frame["rank"] == 1).sum())
            advance(num_users)
            left -= num_users
        advance(left)  # users for whom no item is left
        table = self._table(found, pd.concat(frames, ignore_index=True))
        popular = sum(len(one.slots) == 0 for one in histories)
        marks = {_JOB: self._digest, _POPULAR: str(popular).encode()}
        with new_file(self._path(part)) as partial:
            pq.write_table(table.replace_schema_metadata(marks), partial)
            sync(partial)
        sync(self.folder)

    def finish(self) -> Sequence[BulkPart]:
        """Records all parts in the manifest, and deletes the sorted input."""
        if not self._manifest.parts:
            parts = [self._complete(part) for part in self._numbers()]
            write_manifest(self.folder, replace(self._manifest, parts=parts))
            self._manifest = replace(self._manifest, parts=parts)
        shutil.rmtree(self.folder / _WORK, ignore_errors=True)
        return self._manifest.parts

    def _numbers(self) -> range:
        return range(len(self._manifest.rows) - 1)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05}.parquet"

    def _requested(self, histories: Sequence[History]) -> Sequence[History]:
        """Histories with the times at which their next items are requested."""
        if not self._recommender.reads_request_time:
            return histories
        given = self._config.request_time
        if given is not None:
            return self._recommender.asked_at(
                histories, given, "--request_time", self._report
            )
        return asked_now(histories, self._manifest.requested_at)

    def _table(self, part: HistoryPart, found: pd.DataFrame) -> pa.Table:
        """The rows of a part, users in the order of their ids."""
        found = found.sort_values("user", kind="stable")
        items = pq.read_schema(self._recommender.dataset.path / ITEMS_FILE)
        columns = {
            "user": part.users.take(pa.array(found["user"], pa.int64())),
            "rank": pa.array(found["rank"], pa.int64()),
            "item": pa.array(found["item"], items.field("item").type),
            "title": pa.array(found["title"], pa.string()),
            "probability": pa.array(found["probability"], pa.float32()),
        }
        return pa.table(columns)

    def _complete(self, part: int) -> BulkPart:
        path = self._path(part)
        footer = pq.read_metadata(path)
        return BulkPart(
            name=path.name,
            num_users=self.num_users_of(part),
            num_popular=int(footer.metadata[_POPULAR]),
            num_rows=footer.num_rows,
            sha256=file_sha256(path),
        )
