"""Recommends to many generated users by the command, and measures memory and speed.

    python tests/sweep_bulk.py --checkpoint runs/mine --users 100000 1000000

The speed is that of the additional users, so that the start counts for nothing, beside
the model called in full batches on a part of the same histories.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from conftest import ROOT

from eqids.data import Dataset
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.load_recommender import load

_CHUNK = 50_000
"""Users of a file of histories."""
_BATCH = 64


@dataclass(frozen=True)
class BulkSweep:
    """What is measured."""

    checkpoint: Path
    """DIR/STEP, or a run's DIR for its best step."""
    data_dir: Path | None = None
    """Its dataset folder, by default that of the run."""
    users: tuple[int, ...] = (100_000, 1_000_000)
    """Numbers of generated users, ascending."""
    events: float = 10.0
    """Events of a user, on average."""
    k: int = 10
    """Items to recommend."""
    folder: Path | None = None
    """Where histories and answers go; by default a temporary folder."""


@dataclass(frozen=True)
class BulkCost:
    """What a command took."""

    users: int
    """Users of the input."""
    seconds: float
    """Processor time."""
    peak_mb: float
    """The most memory that the process held."""


def write_histories(folder: Path, dataset: Dataset, users: int, events: float) -> Path:
    """Writes generated histories, whose users are in random order."""
    folder.mkdir()
    items = dataset.items()["item"].to_numpy()
    for first in range(0, users, _CHUNK):
        rng = np.random.default_rng(first)
        number = min(_CHUNK, users - first)
        slots, times, offsets = _histories(rng, number, len(items), events)
        names = first + rng.permutation(number)
        table = {
            "user": np.repeat(names, np.diff(offsets)),
            "item": items[slots],
            "time": times,
        }
        pq.write_table(pa.table(table), folder / f"{first:09}.parquet")
    return folder


def _histories(
    rng: np.random.Generator, users: int, num_items: int, events: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns items by number, times and offsets."""
    lengths = rng.geometric(1 / events, users)
    offsets = np.append(0, np.cumsum(lengths))
    items = (num_items * rng.random(offsets[-1]) ** 2).astype(np.int64)
    times = 1_600_000_000 + np.sort(rng.integers(0, 10**8, offsets[-1]))
    return items, times, offsets


def recommended(flags: BulkSweep, source: Path, target: Path, users: int) -> BulkCost:
    """Runs the command in a process of its own."""
    given = ["--checkpoint", str(flags.checkpoint), "--k", str(flags.k)]
    given += [] if flags.data_dir is None else ["--data_dir", str(flags.data_dir)]
    given += ["--input", str(source), "--output", str(target)]
    job = subprocess.Popen(
        [sys.executable, "-m", "eqids.recommend", *given],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(job.pid, 0)
    job.returncode = os.waitstatus_to_exitcode(status)
    assert job.returncode == 0
    parts = json.loads((target / "_manifest.json").read_text())["parts"]
    assert sum(part["num_users"] for part in parts) == users
    return BulkCost(users, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)


def users_per_second(flags: BulkSweep, users: int) -> float:
    """Returns what the model does in full batches of similar lengths, compiled."""
    recommender = load(flags.checkpoint, data_dir=flags.data_dir)
    dataset, rng = recommender.dataset, np.random.default_rng(0)
    slot = dataset.items()["slot"].to_numpy()
    items, times, offsets = _histories(rng, users, len(slot), flags.events)
    spans = [slice(a, b) for a, b in zip(offsets, offsets[1:], strict=False)]
    queries = [Query(History(0, slot[items[s]], times[s]), flags.k) for s in spans]
    queries.sort(key=lambda one: len(one.history.slots))
    model = ServedModel(recommender.opened, max_batch=_BATCH)
    batches = [queries[at : at + _BATCH] for at in range(0, users, _BATCH)]
    for batch in batches:
        model.answer(batch)
    began = time.process_time()
    for batch in batches:
        model.answer(batch)
    return users / (time.process_time() - began)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a line for each number of users."""
    flags = tyro.cli(BulkSweep, args=argv, description=__doc__)
    bare = users_per_second(flags, min(20_000, flags.users[0]))
    print(f"the model alone: {bare:,.0f} users a second of the processor", flush=True)
    dataset = load(flags.checkpoint, data_dir=flags.data_dir).dataset
    before: BulkCost | None = None
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        for users in flags.users:
            folder = Path(name)
            source = write_histories(
                folder / f"in-{users}", dataset, users, flags.events
            )
            cost = recommended(flags, source, folder / f"out-{users}", users)
            print(cost, flush=True)
            if before is not None:
                more = cost.seconds - before.seconds
                rate = (cost.users - before.users) / more
                print(
                    f"{rate:,.0f} users a second more, {rate / bare:.2f} of the "
                    f"model alone; peak {cost.peak_mb / before.peak_mb:.2f} of that "
                    f"for {before.users:,} users"
                )
            before = cost


if __name__ == "__main__":
    main()
