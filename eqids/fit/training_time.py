"""The time that a run has trained, over all of its processes, and its bound."""

import time
from collections.abc import Callable

from eqids.fit.cooldown import SHARE


class TrainingTime:
    """Counts the seconds of steps and evaluations during training."""

    def __init__(
        self,
        before: float = 0.0,
        max_minutes: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
            before: seconds that earlier processes of the run trained.
            max_minutes: the bound, or None.
            now: returns seconds.
        """
        self._now, self._since = now, now() - before
        self._limit = float("inf") if max_minutes is None else 60 * max_minutes
        self.begins_over = before >= self._limit
        """Whether earlier processes reached the bound; the same in all processes."""

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._now() - self._since

    @property
    def cools(self) -> bool:
        """Whether only the time of a cool-down is left."""
        return self.seconds >= (1 - SHARE) * self._limit

    @property
    def over(self) -> bool:
        """Whether the bound is reached."""
        return self.seconds >= self._limit
