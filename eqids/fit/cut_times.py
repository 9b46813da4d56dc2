"""Evaluation at cut times: histories end before a time, and targets come from it on."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Bool, Int64

from eqids.config import UserError, require
from eqids.data import Dataset
from eqids.data.raw.times import date

DEFAULT_CUTS = 3
"""Cut times that are chosen if none are given."""


def cut_times(dataset: Dataset, given: Sequence[str]) -> list[int]:
    """Returns the cut times of an evaluation, in unix seconds.

    Args:
        dataset: of a temporal split, whose training events end before `valid_from`.
        given: unix seconds, dates or dates with a time (UTC). If there are none, the
            cuts are the split's own test time, and the times that divide the events
            from it on into equally many.

    Raises:
        UserError: the dataset has no times; a text is no time; or training events are
            not before a cut, so that the model knows what comes after it.
    """
    where, times = f"--cut_times, {dataset.path}", dataset.times
    if times is None:
        raise UserError(
            f"{dataset.path} has no times, wanted some for --split temporal"
        )
    last = _last_training_time(dataset)
    if not given:
        start = dataset.info.protocol.test_from
        require(
            start is not None,
            f"{where}: the dataset has the split {dataset.info.protocol.split}, whose "
            "training events go on until its end; prepare it with --split temporal",
        )
        assert start is not None
        later = times[times >= start]
        shares = np.arange(DEFAULT_CUTS) / DEFAULT_CUTS
        found = np.quantile(later, shares, method="lower").tolist()
        return sorted({int(one) for one in found})
    found = sorted({_seconds(text) for text in given})
    require(
        found[0] > last,
        f"--cut_times {given[0]}: training events of {dataset.path} go on until "
        f"{_moment(last)}, and the model knows them; wanted a time after that, or a "
        "dataset prepared with --split temporal",
    )
    return found


def at_cut(dataset: Dataset, cut: int) -> Dataset:
    """Returns the dataset with the first events from a time on as test targets.

    Users without an event before it have no target, see `new_users`.

    Args:
        dataset: with times.
        cut: unix time.

    Raises:
        UserError: no user has events before and after the cut.
    """
    before = _events_before(dataset, cut)
    evaluated = (before > 0) & (before < np.diff(dataset.offsets))
    evaluated &= _valid_target(dataset, before)
    require(
        bool(evaluated.any()),
        f"--cut_times {_moment(cut)}: no user of {dataset.path} has an event before it "
        "and one from it on",
    )
    test = np.where(evaluated, before, -1).astype(np.int32)
    return replace(dataset, test_at=test)


def new_users(dataset: Dataset, cut: int) -> Bool[np.ndarray, " user"]:
    """Returns which users have their first event from a time on."""
    before = _events_before(dataset, cut)
    new = (before == 0) & (np.diff(dataset.offsets) > 0)
    return new & _valid_target(dataset, before)


def _events_before(dataset: Dataset, cut: int) -> Int64[np.ndarray, " user"]:
    assert dataset.times is not None
    before = np.concatenate([[0], np.cumsum(dataset.times < cut)])
    return before[dataset.offsets[1:]] - before[dataset.offsets[:-1]]


def _valid_target(
    dataset: Dataset, before: Int64[np.ndarray, " user"]
) -> Bool[np.ndarray, " user"]:
    """Whether the item of the event at a position is no retired one."""
    at = np.minimum(dataset.offsets[:-1] + before, len(dataset.slots) - 1)
    return dataset.item_valid.reshape(-1)[dataset.slots[at]]


def _last_training_time(dataset: Dataset) -> int:
    assert dataset.times is not None
    has = dataset.train_length > 0
    last = dataset.offsets[:-1][has] + dataset.train_length[has] - 1
    return int(dataset.times[last].max())


def _seconds(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--cut_times is {text!r}, wanted unix seconds, or dates such as "
            "2024-05-01 or 2024-05-01T12:00 (UTC)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp())


def _moment(seconds: int) -> str:
    return f"{seconds} ({date(seconds)})"
