"""When next items are requested: at times that the caller gives, or by default now."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from eqids.config import UserError, require
from eqids.data import Dataset
from eqids.inference.histories import History, with_request_time
from eqids.inference.history_times import event_times

LAST = "last"
"""In place of a time: the time of each history's last event."""


def with_request_times(
    histories: Sequence[History],
    times: Any,
    name: str,
    dataset: Dataset,
    report: Callable[[str], None],
) -> list[History]:
    """Returns histories with the request times that a caller gives.

    Args:
        histories: without request times.
        times: one time for all histories, or a list with one for each: numbers,
            timestamps or texts of these; or "last".
        name: of the argument, for messages.
        dataset: see `event_times`.
        report: receives the unit that numbers are taken to be in.

    Raises:
        UserError: a time is invalid, or before the last event of its history; there
            are more or fewer times than histories; or a history has no times, or a
            request time already.
    """
    require(
        all(history.request_time is None for history in histories),
        f"{name} is given, and so are request times of the histories; wanted one of "
        "both",
    )
    seconds = _seconds(histories, times, name, dataset, report)
    require(
        len(seconds) == len(histories),
        f"{name} holds {len(seconds)} times, wanted one for each of "
        f"{len(histories)} histories",
    )
    return [
        with_request_time(history, at, name)
        for history, at in zip(histories, seconds, strict=True)
    ]


def asked_now(histories: Sequence[History], now: int | None = None) -> list[History]:
    """Returns histories that all have a request time, by default now.

    A history whose last event is later than now is requested right after it. One
    without times stays as it is.

    Args:
        histories: with and without request times.
        now: unix seconds, by default those of the clock.
    """
    now = int(time.time()) if now is None else now
    return [
        replace(history, request_time=max(now, int(history.times[-1])))
        if history.request_time is None
        and history.times is not None
        and len(history.slots)
        else history
        for history in histories
    ]


def _seconds(
    histories: Sequence[History],
    times: Any,
    name: str,
    dataset: Dataset,
    report: Callable[[str], None],
) -> list[int]:
    """Returns unix seconds; see `with_request_times`."""
    if isinstance(times, str) and times == LAST:
        return [
            0 if one.times is None or not len(one.times) else int(one.times[-1])
            for one in histories
        ]
    if pd.api.types.is_list_like(times):
        column = pd.Series(list(times))
        read = event_times(column, name, dataset, report, "request_time")
        return list(read.seconds.tolist())
    try:
        column = pd.Series([times])
        read = event_times(column, name, dataset, report, "request_time")
    except UserError as error:
        raise UserError(
            f"{name} is {str(times)!r}, wanted unix seconds, a date and time such as "
            f"2024-05-01 12:00, or {LAST}"
        ) from error
    return list(read.seconds.tolist()) * len(histories)
