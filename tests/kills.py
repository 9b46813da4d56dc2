"""Kill a run again and again, and check what each kill leaves behind."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runs import small
from test_processes import ending, free_port, start

from eqids.checkpoints import (
    damaged,
    latest_step,
    partials,
    read_manifest,
    steps,
    verify,
)

SAVE_EVERY = 10

Moment = Literal[
    "during a save", "during a deletion", "between saves", "before any save"
]
"""When a process was killed, as seen from the folders that it left."""

_LONGEST_START = 600.0
_SECONDS = 0.5


@dataclass(frozen=True)
class Kill:
    """One kill."""

    moment: Moment
    """What the run was doing."""
    lost: int
    """Logged steps since the newest checkpoint."""


def kill_sweep(
    data: Path,
    folder: Path,
    num_kills: int,
    seed: int,
    *,
    num_processes: int = 1,
    report: Callable[[str], None] = lambda text: None,
) -> list[Kill]:
    """Kills a run with SIGKILL, resumes it, and kills it again.

    After a kill all steps must be sound, and the newest at most two saves behind the
    log: one was due, one was being written. The next start must resume from it and
    report no damage. At the end, every line of metrics ever logged and every array of
    the last step must equal, to the bit, those of a run that was never killed.

    Args:
        data: the dataset folder.
        folder: an empty folder, for the two runs and what they print.
        num_kills: how often.
        seed: of the moments.
        num_processes: of the run; all are killed, within a second.
        report: called with a message for every kill.

    Raises:
        AssertionError: a kill did harm.
    """
    rng, run = random.Random(seed), folder / "killed"
    kills = []
    for number in range(num_kills):
        before = latest_step(run)
        logs = [folder / f"{number}-{rank}.log" for rank in range(num_processes)]
        with running(data, run, logs) as jobs:
            started = _kill(jobs, run, before, rng)
        said = "".join(log.read_text() for log in logs)
        if started:
            assert before is None or f"going on from step {before}" in said, said
        kills.append(_survived(run, said, before))
        report(f"kill {number + 1} of {num_kills}: {kills[-1]}")
    stop = (latest_step(run) or 0) + 2 * SAVE_EVERY + 5
    _finish(data, run, stop, num_processes)
    whole = folder / "whole"
    _finish(data, whole, stop, num_processes, "--save_every", str(stop))
    wanted = dict(logged(whole))
    for key, values in logged(run):
        assert values == wanted[key], (seed, key, values, wanted[key])
    assert {key for key, _ in logged(run)} == wanted.keys()
    one, two = (read_manifest(f / str(stop)).arrays for f in (run, whole))
    assert one == two, f"seed {seed}: weights differ after {num_kills} kills"
    return kills


@contextmanager
def running(
    data: Path, run: Path, logs: Sequence[Path], *more: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts a run's processes; they are killed long before their schedule ends."""
    flags = ["--num_steps", "100000", "--save_every", str(SAVE_EVERY)]
    flags += ["--eval_every", "50", "--early_stop", "0", "--log_every", "1", *more]
    tokens = ["-m", "eqids.train", *small(data, run, *flags)]
    env = {"JAX_ENABLE_COMPILATION_CACHE": "1"}
    peers: Sequence[Sequence[str]] = [[]]
    if len(logs) > 1:
        env = {}
        where = f"localhost:{free_port()}"
        peers = [
            ["--layout", "fsdp", "--coordinator", where, "--heartbeat", "10"]
            + ["--num_processes", str(len(logs)), "--process_id", str(rank)]
            for rank in range(len(logs))
        ]
    jobs = [
        start([*tokens, *peer], 1, log, **env)
        for log, peer in zip(logs, peers, strict=True)
    ]
    with ending(jobs):
        yield jobs


def _kill(
    jobs: Sequence[subprocess.Popen[bytes]],
    run: Path,
    before: int | None,
    rng: random.Random,
) -> bool:
    """Kills at a random moment; returns whether that was certainly after a save.

    Some kills wait for a save and come during it or right after it, more come at any
    moment after the first save, and a few during the start.
    """
    aim = rng.choices(("save", "any", "start"), (6, 8, 2))[0]
    if aim == "start":
        time.sleep(rng.uniform(0, 4))
    else:
        wait_for(jobs, lambda: (latest_step(run) or 0) > (before or 0))
        if aim == "save":
            newest = latest_step(run) or 0
            wait_for(jobs, lambda: any(_number(p) > newest for p in partials(run)))
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, _SECONDS))
    for job in rng.sample(jobs, len(jobs)):
        job.send_signal(signal.SIGKILL)
        if len(jobs) > 1:
            time.sleep(rng.uniform(0, 0.2))
    for job in jobs:
        job.wait()
    return aim != "start"


def wait_for(
    jobs: Sequence[subprocess.Popen[bytes]], happened: Callable[[], bool]
) -> None:
    last = time.monotonic() + _LONGEST_START
    while not happened():
        assert [job.poll() for job in jobs] == [None] * len(jobs), "a process ended"
        assert time.monotonic() < last, "the run makes no progress"
        time.sleep(0.001)


def _survived(run: Path, said: str, before: int | None) -> Kill:
    """Checks what a kill has left of a run that started from a step, or from none."""
    assert damaged(run) == [] and "damaged" not in said, said
    for step in steps(run):
        assert verify(run / str(step)) == []
    newest, done = latest_step(run) or 0, 0
    if (run / "metrics.jsonl").exists():
        *_, ((done, _), _) = [((0, ""), {}), *logged(run)]
    assert done - newest <= 2 * SAVE_EVERY, (done, newest)
    left = [_number(path) for path in partials(run)]
    assert len(left) <= 1
    moment: Moment = "between saves"
    if newest == (before or 0):  # what is left may be from an earlier kill
        moment = "before any save"
    elif left:
        moment = "during a save" if left[0] > newest else "during a deletion"
    return Kill(moment, max(0, done - newest))


def _number(partial: Path) -> int:
    return int(partial.name[1:].removesuffix(".partial"))


def _finish(data: Path, run: Path, stop: int, num_processes: int, *more: str) -> None:
    """Trains a run to a step without killing it."""
    logs = [run.with_name(f"{run.name}-{rank}.log") for rank in range(num_processes)]
    with running(data, run, logs, "--stop_at", str(stop), *more) as jobs:
        for job, log in zip(jobs, logs, strict=True):
            assert job.wait() == 0, log.read_text()[-4000:]


def logged(run: Path) -> list[tuple[tuple[int, str], Mapping[str, Any]]]:
    """Returns all that was ever logged, without measured times.

    A line's key is its step and the name of its first value: a step that is
    evaluated has two lines.
    """
    found = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        del values["time"]
        values.pop("targets_per_s", None)
        found.append(((step, next(iter(values))), values))
    return found
