"""Histories as users give them: lists of ids, tables, users of a dataset, or a mix."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from eqids.config import TimeUnit, UserError, require
from eqids.data import Dataset
from eqids.data.ids import distinct_values, shown
from eqids.data.times import SECONDS, YEAR_1971, unit_of

Unknown = Literal["refuse", "skip"]
"""What becomes of items that the catalog does not hold."""
Report = Callable[[str], None]
"""Receives messages."""


@dataclass(frozen=True)
class History:
    """What one user did: slots and, if known, unix seconds, oldest first.

    One without items is answered by popularity.
    """

    user: Hashable
    slots: np.ndarray
    times: np.ndarray | None = None


@dataclass(frozen=True)
class _Given:
    """Histories in which slots may be -1, and what their events are called."""

    histories: Sequence[History]
    slots: np.ndarray
    """int32 [event], in the order in which the events were given."""
    items: Any
    """The ids of the events, in that order."""
    where: str
    """Names an event by its number, in braces."""
    first: int = 0
    """The number of the first event."""


def read_histories(
    dataset: Dataset, histories: Any, unknown: Unknown, report: Report
) -> tuple[list[History], int]:
    """Reads the histories that `Recommender.recommend` is given.

    Args:
        dataset: whose items they name.
        histories: a table (see `recommend`), one `History`, or a list of lists of
            item ids, of `History` and of tables. The user of a list is its index.
        unknown: refuse events with an item that the catalog does not hold, or leave
            them out; what is left may be empty.
        report: receives what a user should know.

    Returns:
        The histories, and how many events were left out.

    Raises:
        UserError: naming what is wrong and where.
    """
    given = list(_given(dataset, histories, report))
    slots = np.concatenate([one.slots for one in given]) if given else np.zeros(0)
    left_out = int((slots < 0).sum())
    if left_out and unknown == "refuse":
        raise UserError(_refusal(dataset, given, left_out, len(slots)))
    found = [history for one in given for history in one.histories]
    require(len(found) > 0, "there are no histories, wanted at least one")
    return [_known(history) for history in found] if left_out else found, left_out


def _known(history: History) -> History:
    known = history.slots >= 0
    if known.all():
        return history
    times = None if history.times is None else history.times[known]
    return replace(history, slots=history.slots[known], times=times)


def _refusal(
    dataset: Dataset, given: Sequence[_Given], left_out: int, num_events: int
) -> str:
    """Names the first unknown item, and says how many there are."""
    one = next(one for one in given if (one.slots < 0).any())
    event = int((one.slots < 0).argmax())
    where = one.where.format(one.first + event)
    names = (
        shown(one.items[at]) for one in given for at in np.flatnonzero(one.slots < 0)
    )
    num_items = len(set(names))
    all_of_them = (
        f"; {left_out:,} of {num_events:,} events name {num_items:,} items that it "
        "does not hold"
        if left_out > 1
        else ""
    )
    return (
        f"{where}: item {shown(one.items[event])} is not in the catalog of "
        f"{dataset.path}{all_of_them}; leave out such events with --unknown skip (in "
        "Python unknown='skip')"
    )


def _given(dataset: Dataset, histories: Any, report: Report) -> Iterator[_Given]:
    if isinstance(histories, pd.DataFrame):
        yield _of_frame(dataset, histories, "row {} of the histories", report)
        return
    if isinstance(histories, History):
        histories = [histories]
    for number, one in enumerate(listed("histories", histories)):
        if isinstance(one, History):
            highest = int(np.max(one.slots, initial=-1))
            require(
                highest < dataset.num_slots,
                f"histories[{number}] names slot {highest}, wanted 0 to "
                f"{dataset.num_slots - 1}: it is of another dataset than "
                f"{dataset.path}",
            )
            yield _Given([one], np.asarray(one.slots), one.slots, "")
        elif isinstance(one, pd.DataFrame):
            yield _of_frame(dataset, one, f"row {{}} of histories[{number}]", report)
        else:
            items = listed(f"histories[{number}]", one)
            items = items if isinstance(items, np.ndarray | pd.Series) else list(items)
            slots = dataset.find_items(items)
            items = items.tolist() if isinstance(items, pd.Series) else items
            where = f"histories[{number}][{{}}]"
            yield _Given([History(number, slots)], slots, items, where)


def _of_frame(
    dataset: Dataset, frame: pd.DataFrame, where: str, report: Report
) -> _Given:
    """The histories in a table, users in order of their first event."""
    require(len(frame) > 0, "the histories have no rows, wanted an event in each row")
    for name in ("user", "item"):
        _require_ids(frame, name)
    items = frame["item"]
    slots = dataset.find_items(items)
    if "time" not in frame.columns:
        order, times = np.arange(len(frame)), None
    else:
        times = _seconds(frame["time"], dataset.info.time_unit, report).to_numpy()
        order = np.argsort(times, kind="stable")
        times = times[order]
    users, user = distinct_values(frame["user"].iloc[order])
    # The events of each user together, in order.
    together = np.argsort(user, kind="stable")
    ends = np.cumsum(np.bincount(user, minlength=len(users)))[:-1]
    parts = np.split(slots[order][together], ends)
    moments: Sequence[np.ndarray | None] = [None] * len(users)
    if times is not None:
        moments = np.split(times[together], ends)
    histories = [History(*one) for one in zip(users, parts, moments, strict=True)]
    return _Given(histories, slots, items.to_numpy(), where, first=1)


def _require_ids(frame: pd.DataFrame, name: str) -> None:
    columns = list(map(str, frame.columns))
    require(
        name in columns,
        f"histories have no column {name!r}, the columns are "
        f"{', '.join(columns) or 'none'}; wanted user, item and, if known, time",
    )
    require(
        columns.count(name) == 1,
        f"histories have {columns.count(name)} columns {name!r}, wanted one",
    )
    ids = frame[name]
    empty = ids.isna().to_numpy()
    require(
        not empty.any(),
        f"column {name!r} of the histories is empty in row {empty.argmax() + 1}, "
        "wanted a value in every row",
    )
    if ids.dtype == object:
        nested = ids.map(pd.api.types.is_hashable).eq(False).to_numpy()
        require(
            not nested.any(),
            f"column {name!r} of the histories holds a "
            f"{type(ids.iloc[int(nested.argmax())]).__name__} in row "
            f"{nested.argmax() + 1}, wanted one id in every row",
        )


Items = TypeVar("Items", bound=Iterable)


def listed(name: str, items: Items) -> Items:
    """Returns the items as they are; a text would be taken for a list of its letters.

    Raises:
        UserError: it is no list.
    """
    require(
        isinstance(items, Iterable) and not isinstance(items, str | bytes),
        f"{name} is {items!r}, wanted a list of "
        + ("lists of item ids" if name == "histories" else "item ids"),
    )
    return items


def _seconds(times: pd.Series, own: TimeUnit | None, report: Report) -> pd.Series:
    """Unix seconds of numbers, timestamps or their texts; UTC where no zone is said."""
    wanted = "wanted unix seconds, timestamps, or text like 2024-05-01T12:30:00Z"
    if pd.api.types.is_datetime64_any_dtype(times):
        seconds = _since_1970(times)
    elif pd.api.types.is_numeric_dtype(times):
        seconds = _in_seconds(times, own, report)
    else:
        numbers = pd.to_numeric(times, errors="coerce")
        stamps = pd.to_datetime(times, utc=True, format="ISO8601", errors="coerce")
        numeric = numbers.notna().sum() >= stamps.notna().sum()
        seconds = _in_seconds(numbers, own, report) if numeric else _since_1970(stamps)
    good = seconds.notna() & (seconds.abs() < 2**62)
    row = int((~good).to_numpy().argmax())
    require(
        bool(good.all()),
        f"column 'time' of the histories is {times.iloc[row]} in row {row + 1}, "
        f"{wanted}",
    )
    return (seconds // 1).astype("int64")


def _in_seconds(times: pd.Series, own: TimeUnit | None, report: Report) -> pd.Series:
    """Numbers in seconds: as they are, or in the unit that makes them plausible.

    Small ones may be anything: they are in the unit of the dataset's source.
    """
    if not len(times.dropna()):
        return times
    taken = unit_of(times.min().item(), times.max().item())
    too_small = times.max() < YEAR_1971
    unit = own or "seconds" if too_small or not taken.fits else taken.unit
    if unit == "seconds":
        return times
    why = "the dataset was made of such times" if unit == own else taken.why
    report(f"column 'time' of the histories is taken as {unit}: {why}")
    factor = SECONDS[unit]
    return times * int(factor) if factor > 1 else times // factor.denominator


def _since_1970(stamps: pd.Series) -> pd.Series:
    since = pd.to_datetime(stamps, utc=True) - pd.Timestamp(0, tz="UTC")
    return since // pd.Timedelta(seconds=1)
