"""The difference of two models, user by user, and how far chance moves it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

DRAWS = 2_000
"""Number of times that the users are drawn anew."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean over users of one model's metric less another's.

    Attributes:
        mean: the difference.
        low: the lower end of its 95% interval.
        high: the upper end.
        standard_error: the standard deviation over draws.
    """

    mean: float
    low: float
    high: float
    standard_error: float


def paired_bootstrap(
    ours: Float[np.ndarray, " user"],
    theirs: Float[np.ndarray, " user"],
    seed: int = 0,
    draws: int = DRAWS,
) -> PairedDifference:
    """Compares two models on the same users by a paired bootstrap.

    As many users as there are are drawn with replacement, again and again; the interval
    is between percentiles of their mean differences (Efron and Tibshirani 1993, chapter
    13; for rankings, Sakai 2006). It says how far other users could have moved the
    difference, and not how far other seeds could.

    Args:
        ours: a metric of each user, averaged over seeds.
        theirs: the same metric of the same users.
        seed: of the draws.
        draws: number of draws.
    """
    each, rng = ours - theirs, np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        means[draw] = each[rng.integers(0, len(each), len(each))].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return PairedDifference(
        float(each.mean()), float(low), float(high), float(means.std(ddof=1))
    )
