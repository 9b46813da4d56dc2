"""Splits histories into training events, validation targets and test targets."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from eqids.config import UserError, require
from eqids.data.training import in_training

_VALID_QUANTILE = 0.8
_TEST_QUANTILE = 0.9


@dataclass(frozen=True)
class SplitPositions:
    """Positions inside each user's history; a model sees what precedes a target."""

    train_length: Int32[np.ndarray, " user"]
    """How many of the first events are for training."""
    valid_at: Int32[np.ndarray, " user"]
    """Position of the validation target; -1: none."""
    test_at: Int32[np.ndarray, " user"]
    """Position of the test target; -1: none."""
    valid_from: int | None = None
    """In a temporal split, the unix time from which events are for validation."""
    test_from: int | None = None
    """In a temporal split, the unix time from which events are for test."""

    def in_training(
        self, offsets: Int64[np.ndarray, " bound"]
    ) -> Bool[np.ndarray, " event"]:
        """Returns whether each event is for training."""
        return in_training(offsets, self.train_length)

    def training_users(self) -> Int32[np.ndarray, " event"]:
        """Returns the number of the user of each training event."""
        users = np.arange(len(self.train_length), dtype=np.int32)
        return np.repeat(users, self.train_length)


def leave_one_out(offsets: np.ndarray) -> SplitPositions:
    """Splits off each user's last event for test, and the one before for validation.

    All events of users with fewer than three are for training.

    Args:
        offsets: where each history starts and ends.

    Raises:
        UserError: no user has three events.
    """
    length = np.diff(offsets)
    enough = length >= 3
    require(
        bool(enough.any()),
        f"no user can be evaluated: the longest of {len(length)} histories has "
        f"{length.max(initial=0)} events, wanted 3 or more (one each for training, "
        "validation and test)",
    )
    return SplitPositions(
        train_length=np.where(enough, length - 2, length).astype(np.int32),
        valid_at=np.where(enough, length - 2, -1).astype(np.int32),
        test_at=np.where(enough, length - 1, -1).astype(np.int32),
    )


def temporal(offsets: np.ndarray, times: np.ndarray | None) -> SplitPositions:
    """Splits all histories at two times: the 80% and 90% quantiles of all events.

    Events before the first time are for training. The validation target is a user's
    first event from the first time on, if it is before the second. The test target is
    the first event from the second time on. An event without history is no target.

    Args:
        offsets: where each history starts and ends.
        times: not falling within each user.

    Raises:
        UserError: there are no times, or no user has a validation or a test target.
    """
    if times is None:
        raise UserError("--split temporal needs times: name their --time_column")
    ranks = [int(len(times) * q) for q in (_VALID_QUANTILE, _TEST_QUANTILE)]
    valid_from, test_from = np.partition(times, ranks)[ranks].tolist()
    train_length = _first_at(times, offsets, valid_from)
    tests_at = _first_at(times, offsets, test_from)
    valid = (train_length > 0) & (train_length < tests_at)
    test = (tests_at > 0) & (tests_at < np.diff(offsets))
    for name, users in (("validation", valid), ("test", test)):
        require(
            bool(users.any()),
            f"no user can be evaluated: none of {len(users)} users has a {name} event "
            "with an earlier one before it in a temporal split at times "
            f"{valid_from} and {test_from}",
        )
    return SplitPositions(
        train_length=train_length,
        valid_at=np.where(valid, train_length, -1).astype(np.int32),
        test_at=np.where(test, tests_at, -1).astype(np.int32),
        valid_from=valid_from,
        test_from=test_from,
    )


def _first_at(times: np.ndarray, offsets: np.ndarray, start: int) -> np.ndarray:
    """int32 [user]: how many events of each user are before `start`."""
    before = np.concatenate([[0], np.cumsum(times < start)])
    return (before[offsets[1:]] - before[offsets[:-1]]).astype(np.int32)
