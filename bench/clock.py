"""A stopwatch that treats contenders alike: warm-up, then turns in changing order."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], tuple[float, float]]
"""Returns seconds of wall time and of CPU time, since any fixed time."""


def now() -> tuple[float, float]:
    """Returns this process's wall and CPU time."""
    return time.perf_counter(), time.process_time()


class Stoppable:
    """A clock that can be stopped while contenders set up or clean up."""

    def __init__(self, clock: Clock = now) -> None:
        self._clock, self._skipped = clock, (0.0, 0.0)

    def __call__(self) -> tuple[float, float]:
        wall, cpu = self._clock()
        return wall - self._skipped[0], cpu - self._skipped[1]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Does not count the time of the body."""
        before = self()
        try:
            yield
        finally:
            after = self._clock()
            self._skipped = after[0] - before[0], after[1] - before[1]


@dataclass(frozen=True)
class Timing:
    """All repetitions of one contender, in seconds.

    Attributes:
        wall: wall time.
        cpu: CPU time of the process, over all its threads.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """The median of repetitions and the quartiles around it."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: tuple[float, ...]) -> "Spread":
        """Summarizes values; of a single value, all three are equal to it."""
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)


def alternate(
    contenders: Mapping[str, Callable[[], None]],
    repetitions: int,
    budget: float,
    *,
    settle: bool = False,
    clock: Clock = now,
) -> dict[str, Timing]:
    """Times contenders in turns, so that a disturbance affects all of them alike.

    Each runs once to warm up. Then come rounds, every second one in reverse order.
    A contender that would need more than `budget` takes part in fewer rounds; if its
    warm-up alone takes longer, in none, and the warm-up counts.

    Args:
        contenders: by name, what to run; it returns when its work is done.
        repetitions: largest number of runs of each.
        budget: seconds of wall time for the repetitions of one contender.
        settle: begin every turn with a run that does not count, because the first run
            after another contender's finds caches and memory in that one's state.
        clock: the clock; tests pass their own.
    """
    counts: dict[str, int] = {}
    spent: dict[str, list[tuple[float, float]]] = {}
    for name, run in contenders.items():
        warm_up = _time(run, clock)
        fits = repetitions if warm_up[0] <= 0 else int(budget / warm_up[0])
        counts[name] = min(repetitions, fits)
        spent[name] = [] if fits > 0 else [warm_up]
    names = list(contenders)
    for turn in range(repetitions):
        for name in names if turn % 2 == 0 else reversed(names):
            count = counts[name]
            if (turn + 1) * count // repetitions > turn * count // repetitions:
                if settle:
                    contenders[name]()
                spent[name].append(_time(contenders[name], clock))
    return {
        name: Timing(*(tuple(times) for times in zip(*rows, strict=True)))
        for name, rows in spent.items()
    }


def _time(run: Callable[[], None], clock: Clock) -> tuple[float, float]:
    wall, cpu = clock()
    run()
    wall_end, cpu_end = clock()
    return wall_end - wall, cpu_end - cpu


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Returns the power of the size by which time grows.

    It is the slope of a least-squares line through the logarithms.
    """
    logs = [[math.log(x) for x in values] for values in (sizes, seconds)]
    return statistics.linear_regression(*logs).slope
