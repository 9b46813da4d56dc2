"""Which events train, and which are the targets that validate and test."""

from dataclasses import dataclass

import numpy as np

from eqids.config import UserError, require

_VALID_QUANTILE = 0.8
_TEST_QUANTILE = 0.9


@dataclass(frozen=True)
class SplitPositions:
    """Positions inside each user's history; what precedes a target may be seen."""

    train_length: np.ndarray
    """int32 [user]: how many of the first events train."""
    valid_at: np.ndarray
    """int32 [user]: position of the validation target, -1: none."""
    test_at: np.ndarray
    """int32 [user]: position of the test target, -1: none."""
    valid_from: int | None = None
    """Unix time of the first events that validate, of a temporal split."""
    test_from: int | None = None
    """Unix time of the first events that test, of a temporal split."""

    def in_training(self, offsets: np.ndarray) -> np.ndarray:
        """bool [event]: whether an event is for training."""
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
        return position < np.repeat(self.train_length, np.diff(offsets))


def leave_one_out(offsets: np.ndarray) -> SplitPositions:
    """Each user's last event tests, the one before validates, the others train.

    Users with fewer than three events are trained on only.

    Args:
        offsets: int64 [user + 1].

    Raises:
        UserError: if no user has three events.
    """
    length = np.diff(offsets)
    enough = length >= 3
    require(
        bool(enough.any()),
        f"no user can be evaluated: the longest of {len(length)} histories has "
        f"{length.max(initial=0)} events, wanted 3 or more (one each to train, to "
        "validate and to test)",
    )
    return SplitPositions(
        train_length=np.where(enough, length - 2, length).astype(np.int32),
        valid_at=np.where(enough, length - 2, -1).astype(np.int32),
        test_at=np.where(enough, length - 1, -1).astype(np.int32),
    )


def temporal(offsets: np.ndarray, times: np.ndarray | None) -> SplitPositions:
    """Events before a global time train; later first events validate and test.

    The validation target is a user's first event from the 80% quantile of all
    times on, if before the 90% quantile; the test target the first event from that
    quantile on. A first event with nothing before it is no target.

    Args:
        offsets: int64 [user + 1].
        times: int64 [event], rising within each user.

    Raises:
        UserError: if there are no times, or no user to validate or to test on.
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
