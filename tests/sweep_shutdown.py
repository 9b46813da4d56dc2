"""Stops runs of two processes by SIGTERM, and counts how their processes end.

    python tests/sweep_shutdown.py --stops 50

Each stop takes about 20 seconds on two CPU cores; tests/test_sweeps.py does a few.
"""

import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from conftest import make_dataset
from kills import logged, running, wait_for

from eqids.checkpoints import damaged, latest_step, partials, verify

LONGEST_GAP = 1.5
"""Seconds from one signal to the other, at most: less than ten steps, and more."""
_LONGEST_END = 120.0


@dataclass(frozen=True)
class Shutdown:
    """How one run ended."""

    codes: tuple[int, ...]
    """The exit codes by process; wanted 143 from each."""
    signaled: tuple[int, ...]
    """The processes that were sent SIGTERM, in this order."""
    gap: float
    """Seconds between the signals."""
    step: int
    """The step that the run saved last."""


def shutdown_sweep(
    data: Path,
    folder: Path,
    num_stops: int,
    seed: int,
    *,
    report: Callable[[str], None] = lambda text: None,
) -> list[Shutdown]:
    """Starts a run of two processes, stops it by SIGTERM, and starts it again.

    Most stops signal both processes, in either order and up to 1.5 seconds apart; the
    others signal only one. After each, both must exit with 143, and the step that
    they saved must be complete and the one they log last.

    Args:
        data: the dataset folder.
        folder: an empty one, for the run and what its processes print.
        num_stops: how often.
        seed: of the moments.
        report: receives a line after every stop.

    Raises:
        AssertionError: a process ended otherwise, or the step is damaged.
    """
    rng, run = random.Random(seed), folder / "run"
    stops = []
    for number in range(num_stops):
        logs = [folder / f"{number}-{rank}.log" for rank in range(2)]
        stops.append(_stopped(data, run, logs, rng))
        report(f"stop {number + 1} of {num_stops}: {stops[-1]}")
        printed = "\n".join(log.read_text()[-4000:] for log in logs)
        assert stops[-1].codes == (143, 143), (seed, stops[-1], printed)
        step = stops[-1].step
        assert f"stopped by SIGTERM at step {step}" in printed, (seed, printed)
        assert not partials(run) and not damaged(run), (seed, printed)
        assert verify(run / str(step)) == [], (seed, printed)
        *_, ((done, _), _) = logged(run)
        assert done == step, (seed, done, step)
    return stops


def _stopped(
    data: Path, run: Path, logs: Sequence[Path], rng: random.Random
) -> Shutdown:
    """Starts two processes, and signals them at a random moment after a save."""
    before = latest_step(run) or 0
    ranks = rng.choice(((0, 1), (1, 0), (0, 1), (1, 0), (0,), (1,)))
    gap = rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, LONGEST_GAP)))
    with running(data, run, logs) as jobs:
        wait_for(jobs, lambda: (latest_step(run) or 0) > before)
        time.sleep(rng.uniform(0, 0.5))
        for rank in ranks:
            jobs[rank].send_signal(signal.SIGTERM)
            if rank != ranks[-1]:
                time.sleep(gap)
        codes = tuple(job.wait(_LONGEST_END) for job in jobs)
    return Shutdown(codes, ranks, gap, latest_step(run) or 0)


@dataclass(frozen=True)
class ShutdownSweep:
    """How much is swept."""

    stops: int = 50
    """Starts and stops of two processes."""
    seed: int = 0
    """Of the moments."""


def main(argv: Sequence[str] | None = None) -> None:
    """Sweeps, and prints how the processes ended."""
    flags = tyro.cli(ShutdownSweep, args=argv, description=__doc__)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        data, folder = Path(name) / "data", Path(name) / "runs"
        make_dataset(data)
        folder.mkdir()
        stops = shutdown_sweep(data, folder, flags.stops, flags.seed, report=_say)
    codes = Counter(stop.codes for stop in stops)
    minutes = (time.monotonic() - started) / 60
    _say(f"{codes[143, 143]} of {len(stops)} ended with 143 twice; {minutes:.0f} min")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
