"""How well probabilities match what happens: reliability and calibration error.

A model's probabilities are exact and sum to one, so the probability that the next item
is in a list is the sum over the list. That is compared with how often it is (Guo et al.
2017, sections 2 and 3; bins of equal size after Nguyen & O'Connor 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from eqids.fit.top_lists import TopLists

_FEWEST, _MOST = 5, 15
"""Bins of a reliability diagram; 15 as in Guo et al."""
_USERS = 50
"""Least users of a bin, where there are enough for the fewest bins."""
_DRAWS = 200
"""Simulations of a calibrated model."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted and observed frequencies, by bins of the predicted ones.

    Attributes:
        confidence: the mean prediction of each bin, ascending.
        frequency: how often it happened.
        num: users of each bin.
    """

    confidence: Float64[np.ndarray, " bin"]
    frequency: Float64[np.ndarray, " bin"]
    num: Int64[np.ndarray, " bin"]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance, weighted by users."""
        distance = np.abs(self.confidence - self.frequency)
        return float(self.num @ distance / self.num.sum())

    @property
    def overconfidence(self) -> float:
        """The mean prediction minus the overall frequency: above 0, too confident."""
        return float(self.num @ (self.confidence - self.frequency) / self.num.sum())


def num_bins(num_users: int) -> int:
    """Returns the number of bins of a reliability diagram, from 5 to 15.

    Each has at least 50 users, from 250 users on.

    Args:
        num_users: users who are divided among the bins.
    """
    return min(max(num_users // _USERS, _FEWEST), _MOST)


def reliability(
    confidence: Float[np.ndarray, " user"],
    happened: Bool[np.ndarray, " user"],
    bins: int | None = None,
) -> Reliability:
    """Returns the reliability of predictions, in bins of equally many users.

    Args:
        confidence: predicted probabilities of an event.
        happened: whether it happened.
        bins: most bins, by default `num_bins`; each has at least one user.
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins or num_bins(len(order)), len(order)))
    return Reliability(
        np.array([confidence[part].mean(dtype=np.float64) for part in parts]),
        np.array([happened[part].mean() for part in parts]),
        np.array([len(part) for part in parts], np.int64),
    )


def list_confidence(
    lists: TopLists, target: Int[np.ndarray, " user"], k: int
) -> tuple[Float64[np.ndarray, " user"], Bool[np.ndarray, " user"]]:
    """Returns how probable it is that the next item is in a list, and whether it is.

    Args:
        lists: with log-probabilities.
        target: the next item of each user.
        k: the first items of each list that count.
    """
    assert lists.log_probs is not None
    mass = np.exp(lists.log_probs[:, :k].astype(np.float64)).sum(axis=1)
    hits = (lists.slots[:, :k] == target[:, None]).any(axis=1)
    return np.minimum(mass, 1.0), hits


def calibrated_error(
    confidence: Float[np.ndarray, " user"], bins: int | None = None, seed: int = 0
) -> float:
    """Returns the calibration error that a calibrated model has on so few users.

    It is above 0, because the frequency of each bin is known from few events only: the
    mean over simulations in which each event has exactly its predicted probability.

    Args:
        confidence: predicted probabilities.
        bins: as for `reliability`.
        seed: of the simulations.
    """
    rng = np.random.default_rng(seed)
    ordered = np.sort(confidence).astype(np.float64)
    num = min(bins or num_bins(len(ordered)), len(ordered))
    sizes = np.array([len(part) for part in np.array_split(ordered, num)])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    mean = np.add.reduceat(ordered, starts)
    errors = [
        np.abs(np.add.reduceat(rng.random(len(ordered)) < ordered, starts) - mean)
        for _ in range(_DRAWS)
    ]
    return float(np.sum(errors) / _DRAWS / len(ordered))


def calibration_metrics(
    lists: TopLists, target: Int[np.ndarray, " user"], cutoffs: Sequence[int]
) -> dict[str, float]:
    """Returns calibration errors and mean confidences.

    `ece@K` is the expected calibration error of "the next item is among the K", and
    `confidence@K` the mean predicted probability of that, to be compared with
    `recall@K`; `calibrated_ece@K` is the error that a calibrated model would have on so
    many users.

    Args:
        lists: with log-probabilities.
        target: the next item of each user.
        cutoffs: the Ks.
    """
    found = {}
    for k in cutoffs:
        confidence, hits = list_confidence(lists, target, k)
        found[f"ece@{k}"] = reliability(confidence, hits).error
        found[f"calibrated_ece@{k}"] = calibrated_error(confidence)
        found[f"confidence@{k}"] = float(confidence.mean())
    return found
