"""Intervals by a paired bootstrap over users (Efron 1979; Sakai 2006 for metrics)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

DRAWS = 1_000
"""Samples of users."""
_TOGETHER = 64
"""Samples that are averaged at once; all of them take a byte a user."""
_LEVEL = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A mean over users with its 95% interval.

    Attributes:
        mean: the mean.
        low: its lower end.
        high: its upper end.
        num: users.
    """

    mean: float
    low: float
    high: float
    num: int


class Bootstrap:
    """Samples of users, with replacement; all means of a report use the same ones.

    So a difference of two systems is paired: both are averaged over the same users.
    """

    def __init__(self, num_users: int, seed: int, draws: int = DRAWS):
        """Draws the samples.

        Args:
            num_users: users that are drawn from, and drawn in each sample.
            seed: of the draws.
            draws: number of samples.
        """
        rng = np.random.default_rng(seed)
        # How often each user is drawn: a number above 255 is as good as impossible.
        self._times = np.empty((draws, num_users), np.uint8)
        for row in self._times:
            drawn = rng.integers(0, num_users, num_users)
            row[:] = np.bincount(drawn, minlength=num_users)

    def means(
        self,
        values: Float[np.ndarray, "user system"],
        members: Bool[np.ndarray, " user"] | None = None,
    ) -> list[Interval]:
        """Returns the mean of each column with its interval.

        Args:
            values: one column for each system.
            members: the users of the mean, by default all. A sample without any of
                them is left out.
        """
        chosen = slice(None) if members is None else np.flatnonzero(members)
        values = values[chosen]
        sums = [
            self._sums(self._times[at : at + _TOGETHER, chosen], values)
            for at in range(0, len(self._times), _TOGETHER)
        ]
        total, summed = map(np.concatenate, zip(*sums, strict=True))
        sampled = summed[total > 0] / total[total > 0, None]
        low, high = np.quantile(sampled, _LEVEL, axis=0)
        mean = values.mean(axis=0)
        return [
            Interval(float(mean[at]), float(low[at]), float(high[at]), len(values))
            for at in range(len(mean))
        ]

    @staticmethod
    def _sums(
        times: UInt8[np.ndarray, "draw user"],
        values: Float[np.ndarray, "user system"],
    ) -> tuple[Float64[np.ndarray, " draw"], Float64[np.ndarray, "draw system"]]:
        """How many users some samples have, and the sums of their values."""
        weight = times.astype(np.float32)
        summed = weight @ values.astype(np.float32)
        return weight.sum(axis=1, dtype=np.float64), summed.astype(np.float64)
