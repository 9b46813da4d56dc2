"""The runs of `python -m bench quality`: each trained once, resumed if stopped."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine
from bench.logged_command import LogCommand, last_line
from bench.quality_data import digest
from bench.quality_settings import Setting, flags_of_run
from eqids.checkpoints import best_step, latest_step, read_manifest
from eqids.config import from_json, to_json
from eqids.io.atomic import write_json
from eqids.io.cores import num_cores

_RECORD, _SESSIONS, _LOG = "run.json", "sessions.json", "train.log"


@dataclass(frozen=True)
class RunRecord:
    """A finished run: what made it, and what it cost."""

    train: tuple[str, ...]
    """Flags of the setting."""
    seed: int
    """Seed of the run."""
    dataset_hash: str
    """Hash of the dataset's content."""
    code: str
    """Digest of the code, see `bench.code_digest`."""
    commit: str | None
    """Git commit of the code, with + if files differed from it."""
    seconds: float | None
    """Wall time of training with its validations, over all sessions; None if one was
    killed."""
    busy_cores: float | None
    """Cores that other processes kept busy when it began, at most."""
    steps: int
    """Last step."""
    best_step: int
    """The step that is evaluated."""
    parameters: int
    """Number of trained parameters."""
    cpu: str
    """The processor."""
    cores: int
    """Cores that it could use."""
    versions: tuple[str, ...]
    """Versions of libraries, as NAME VERSION."""


@dataclass(frozen=True)
class QualityRun:
    """One run: a setting on a data set with a seed.

    Attributes:
        data: the data set's name.
        data_dir: its dataset folder.
        dataset_hash: the hash of its content.
        setting: what is trained.
        seed: the run's seed.
        folder: the folder of all runs.
        code: the digest of the code.
        found: a folder of another version's run, in place of its own.
    """

    data: str
    data_dir: Path
    dataset_hash: str
    setting: Setting
    seed: int
    folder: Path
    code: str
    found: Path | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.data} {self.setting.name} seed {self.seed}"

    @property
    def path(self) -> Path:
        """Its folder, whose name has a digest of all that determines the result."""
        if self.found is not None:
            return self.found
        made = {"train": self.setting.train, "seed": self.seed,
                "dataset_hash": self.dataset_hash, "code": self.code}  # fmt: skip
        return self._group / f"{self._name}-{digest(made)[:10]}"

    @property
    def checkpoints(self) -> Path:
        """The run's folder for `eqids.train`."""
        return self.path / "checkpoints"

    @property
    def record(self) -> RunRecord | None:
        """What the run recorded once it was finished, or None."""
        return _read_record(self.path)

    def of_any_code(self) -> "QualityRun":
        """Returns the run, or the newest finished one of another version's code."""
        if self.record is not None:
            return self
        others = []
        for path in self._group.glob(f"{self._name}-*"):
            old = _read_record(path)
            if old is not None and self._same_but_code(old):
                others.append(((path / _RECORD).stat().st_mtime, path))
        return replace(self, found=max(others)[1]) if others else self

    @property
    def _group(self) -> Path:
        return self.folder / "runs" / self.data

    @property
    def _name(self) -> str:
        return f"{self.setting.name}-seed{self.seed}"

    def _same_but_code(self, old: RunRecord) -> bool:
        made = self.setting.train, self.seed, self.dataset_hash
        return (old.train, old.seed, old.dataset_hash) == made


def train_run(one: QualityRun, run: LogCommand) -> str | None:
    """Trains a run to its end and records it.

    Args:
        one: the run.
        run: runs a command.

    Returns:
        None, or why it failed.
    """
    flags = flags_of_run(one.setting, one.data_dir, one.checkpoints, one.seed)
    log, start = one.path / _LOG, time.perf_counter()
    one.path.mkdir(parents=True, exist_ok=True)
    sessions = _sessions(one.path)
    session: dict[str, float | None] = {
        "seconds": None, "busy_cores": machine.busy_cores()
    }  # fmt: skip
    # Without its seconds, in case this process is killed.
    write_json(one.path / _SESSIONS, [*sessions, session])
    try:
        code = run("eqids.train", flags, log)
    finally:
        session["seconds"] = time.perf_counter() - start
        sessions.append(session)
        write_json(one.path / _SESSIONS, sessions)
    if code != 0:
        return f"{one.label} ended with an error, see {log}: {last_line(log)}"
    record = _recorded(one, sessions)
    write_json(one.path / _RECORD, to_json(record))
    return None


def _recorded(
    one: QualityRun, sessions: Sequence[dict[str, float | None]]
) -> RunRecord:
    """Returns the record of a run that has just ended."""
    best, last = best_step(one.checkpoints), latest_step(one.checkpoints)
    assert best is not None and last is not None
    arrays = read_manifest(one.checkpoints / str(best)).arrays
    params = [row for name, row in arrays.items() if name.startswith("params/")]
    found = machine.describe()
    return RunRecord(
        train=one.setting.train,
        seed=one.seed,
        dataset_hash=one.dataset_hash,
        code=one.code,
        commit=machine.commit(),
        seconds=_total([session["seconds"] for session in sessions]),
        busy_cores=max((x for s in sessions if (x := s["busy_cores"])), default=None),
        steps=last,
        best_step=best,
        parameters=sum(math.prod(row.shape) for row in params),
        cpu=found["cpu"],
        cores=num_cores(),
        versions=tuple(" ".join(pair) for pair in machine.versions().items()),
    )


def _total(seconds: Sequence[float | None]) -> float | None:
    """The sum, or None if a part is unknown."""
    known = [part for part in seconds if part is not None]
    return sum(known) if len(known) == len(seconds) else None


def _sessions(folder: Path) -> list[dict[str, float | None]]:
    """The times that a run was started before: how long each took."""
    path = folder / _SESSIONS
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def _read_record(folder: Path) -> RunRecord | None:
    path = folder / _RECORD
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return from_json(RunRecord, values, str(path))
