"""The histories of requests: of a user, or as a request gives them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eqids.config import UserError
from eqids.data.ids import shown
from eqids.inference.events.event_store import EventStore
from eqids.inference.histories import History, with_request_time
from eqids.inference.server.bodies import HistoryFields, ItemId, TimedItem, UserId
from eqids.inference.server.http_errors import HttpError, expect
from eqids.inference.server.served_catalog import ServedCatalog


def requested_history(
    catalog: ServedCatalog, events: EventStore | None, asked: HistoryFields, where: str
) -> tuple[History, int]:
    """Returns the history of a request, and how many items were left out.

    Args:
        catalog: of the model that will answer.
        events: the stored events, if the server stores them.
        asked: the request.
        where: what messages put before a field's name.

    Raises:
        HttpError: 404 for an unknown user or item; 400 for other mistakes.
    """
    expect(
        (asked.user is None) != (asked.history is None),
        400,
        f"{where}wanted one of user and history",
    )
    left_out = 0
    if asked.history is not None:
        history, left_out = _given(catalog, asked.history, asked.unknown, where)
    else:
        assert asked.user is not None
        history = user_history(catalog, events, asked.user)
    return _asked_at(catalog, history, asked.request_time, where), left_out


def user_history(
    catalog: ServedCatalog, events: EventStore | None, user: UserId
) -> History:
    """Returns what a user did in the dataset and in stored events, oldest first.

    Stored events are left out if the dataset holds them too, or if the catalog does not
    hold their item.

    Raises:
        HttpError: 404 if neither knows the user.
    """
    row, name = catalog.find_user(user)
    dataset = catalog.served.dataset
    slots, times = np.zeros(0, np.int32), np.zeros(0, np.int64)
    if row >= 0:
        span = slice(dataset.offsets[row], dataset.offsets[row + 1])
        slots = dataset.slots[span]
        times = times if dataset.times is None else dataset.times[span]
    stored = [] if events is None or name is None else events.history(name)
    expect(row >= 0 or bool(stored), 404, f"user {shown(user)} is unknown")
    if not stored:
        return History(user, slots, None if dataset.times is None else times)
    new = catalog.names.find([event.item for event in stored])
    later = np.array([event.time for event in stored], np.int64)
    # A dataset that `prepare --source events:FILE` made holds earlier ones already.
    held = set(zip(slots.tolist(), times.tolist(), strict=False))
    kept = [
        at
        for at, event in enumerate(zip(new.tolist(), later.tolist(), strict=True))
        if event[0] >= 0 and event not in held
    ]
    slots = np.concatenate([slots, new[kept]])
    if row >= 0 and dataset.times is None:
        return History(user, slots)
    return _ordered(user, slots, np.concatenate([times, later[kept]]))


def _given(
    catalog: ServedCatalog,
    given: Sequence[ItemId | TimedItem],
    unknown: str,
    where: str,
) -> tuple[History, int]:
    """Returns a history that a request holds, and how many items were left out."""
    timed = [one for one in given if isinstance(one, TimedItem)]
    expect(
        len(timed) in (0, len(given)),
        400,
        f"{where}history has {len(timed)} items with a time and "
        f"{len(given) - len(timed)} without, wanted all or none with a time",
    )
    ids: Sequence[Any] = [one.item for one in timed] or given
    slots = catalog.names.find(ids)
    known = slots >= 0
    if unknown == "refuse" and not known.all():
        at = int((~known).argmax())
        raise HttpError(
            404,
            f"{where}history[{at}]: item {shown(ids[at])} is not in the catalog; "
            'leave such items out with "unknown": "skip"',
        )
    left_out = int((~known).sum())
    if not timed:
        return History(0, slots[known]), left_out
    times = np.array([one.time for one in timed], np.int64)
    return _ordered(0, slots[known], times[known]), left_out


def _ordered(
    user: UserId, slots: npt.NDArray[np.int32], times: npt.NDArray[np.int64]
) -> History:
    """Returns a history in the order of time; equal times keep their order."""
    order = np.argsort(times, kind="stable")
    return History(user, slots[order], times[order])


def _asked_at(
    catalog: ServedCatalog, history: History, seconds: int | None, where: str
) -> History:
    """Returns a history with its request time, if the model reads that."""
    if seconds is None:
        return history
    expect(
        catalog.served.opened.model.config.request_time,
        400,
        f"{where}request_time is given, and the model was trained without "
        "--request_time; wanted no request_time",
    )
    try:
        return with_request_time(history, seconds, f"{where}history")
    except UserError as error:
        raise HttpError(400, str(error)) from None
