"""Kills: a run that is killed again and again, and what each kill leaves behind."""

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

Moment = Literal["in a save", "in a deletion", "between them", "before any save"]
"""What a process was at when it was killed, by the folders that it left."""

_LONGEST_START = 600.0
_SECONDS = 0.5


@dataclass(frozen=True)
class Kill:
    """One kill."""

    moment: Moment
    """What the run was at."""
    lost: int
    """Steps that were logged and are not in a checkpoint."""


def kill_sweep(
    data: Path,
    folder: Path,
    num_kills: int,
    seed: int,
    *,
    num_processes: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Kill]:
    """Kills a run with SIGKILL, lets it go on, and kills it again.

    Each kill must leave sound steps only, and the newest at most two saves behind the
    log: one that is due and one under way. The next start must take that step without
    a word of damage. In the end every line of metrics ever logged and every array of
    the last step are those of a run that nobody killed, to the bit.

    Args:
        data: the dataset folder.
        folder: an empty one; the two runs and what they print go there.
        num_kills: how often.
        seed: of the moments.
        num_processes: of the run; all are killed, within a second.
        tell: hears of every kill.

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
        tell(f"kill {number + 1} of {num_kills}: {kills[-1]}")
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
    """Starts a run's processes; their schedule ends far past what they reach."""
    flags = ["--num_steps", "100000", "--save_every", str(SAVE_EVERY)]
    flags += ["--eval_every", "50", "--log_every", "1", *more]
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
    """Kills at a random moment; returns whether it had to be behind a save.

    Some kills wait for a save and fall in it or right behind it, more fall anywhere
    behind the first save, and a few while the run starts.
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
        assert time.monotonic() < last, "the run does not get on"
        time.sleep(0.001)


def _survived(run: Path, said: str, before: int | None) -> Kill:
    """Looks at what a kill has left of a run that started with a step, or none."""
    assert damaged(run) == [] and "damaged" not in said, said
    for step in steps(run):
        assert verify(run / str(step)) == []
    newest, done = latest_step(run) or 0, 0
    if (run / "metrics.jsonl").exists():
        *_, ((done, _), _) = [((0, ""), {}), *logged(run)]
    assert done - newest <= 2 * SAVE_EVERY, (done, newest)
    left = [_number(path) for path in partials(run)]
    assert len(left) <= 1
    moment: Moment = "between them"
    if newest == (before or 0):  # what is left may be from an earlier kill
        moment = "before any save"
    elif left:
        moment = "in a save" if left[0] > newest else "in a deletion"
    return Kill(moment, max(0, done - newest))


def _number(partial: Path) -> int:
    return int(partial.name[1:].removesuffix(".partial"))


def _finish(data: Path, run: Path, stop: int, num_processes: int, *more: str) -> None:
    """Lets a run get to a step undisturbed."""
    logs = [run.with_name(f"{run.name}-{rank}.log") for rank in range(num_processes)]
    with running(data, run, logs, "--stop_at", str(stop), *more) as jobs:
        for job, log in zip(jobs, logs, strict=True):
            assert job.wait() == 0, log.read_text()[-4000:]


def logged(run: Path) -> list[tuple[tuple[int, str], Mapping[str, Any]]]:
    """All that was ever logged, without what a clock has measured.

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
