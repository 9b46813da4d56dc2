"""Groups of users and of targets, by which a report divides its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from eqids.config import require
from eqids.data import Dataset
from eqids.data.raw.id_files import read_table
from eqids.fit.evaluation import Split, target_slots, targets_of

MOST_GROUPS = 12
"""Most groups of a column of the user's; rarer values are one group."""
NO_VALUE = "(none)"
"""The group of users who are not in the user's file, or whose cell is empty."""
_PARTS = 5
"""Groups of a number, of about equally many users."""
_DAY = 86_400
_UNITS = (("day", _DAY), ("hour", 3_600), ("minute", 60), ("second", 1))
"""What times may be whole numbers of, in seconds."""
_TOGETHER = 1 << 20
"""Times that are compared at once."""
_GAPS = (
    ("under 1 minute", 60),
    ("under 1 hour", 3_600),
    ("under 1 day", _DAY),
    ("under 1 week", 7 * _DAY),
    ("under 30 days", 30 * _DAY),
    ("30 days or more", None),
)
"""Names of gaps, above 0, with the seconds that each ends before."""


@dataclass(frozen=True, eq=False)
class UserGroup:
    """Some users of a split: its name, and whether each user is a member."""

    name: str
    members: Bool[np.ndarray, " user"]


@dataclass(frozen=True, eq=False)
class Division:
    """A division of the users of a split.

    Attributes:
        title: what divides them.
        groups: the groups, each with a member; every user is in one of them.
    """

    title: str
    groups: Sequence[UserGroup]


def divisions(
    dataset: Dataset, split: Split, user_columns: Path | None = None
) -> list[Division]:
    """Returns all divisions of the users of a split; some may have a single group.

    Args:
        dataset: the dataset with the histories and the targets.
        split: the split that has the targets.
        user_columns: a file with a column user, and others to divide by.

    Raises:
        UserError: the file is wrong.
    """
    users, positions = targets_of(dataset, split)
    target = target_slots(dataset, split)
    counts = dataset.item_counts.reshape(-1)[target]
    found = [
        _by_number("Events in the history", positions),
        _by_number("Training events of the target", counts),
    ]
    if dataset.times is not None:
        events = dataset.offsets[users] + positions
        now = dataset.times[events]
        age = (now - _first_times(dataset)[target]) / _DAY
        found.append(_by_number("Days since the target's first event", age))
        gap = now - dataset.times[events - 1]
        found.append(_by_gap(gap, unit_of(dataset.times)))
    if user_columns is not None:
        found += _by_columns(user_columns, dataset, users)
    return found


def unit_of(times: Int[np.ndarray, " event"]) -> str:
    """Returns the longest unit that all times are whole numbers of: day to second.

    Args:
        times: unix seconds.
    """
    common = 0
    for at in range(0, len(times), _TOGETHER):
        common = int(np.gcd.reduce(times[at : at + _TOGETHER], initial=common))
        if common % 60:
            break
    return next(name for name, seconds in _UNITS if common % seconds == 0)


def _first_times(dataset: Dataset) -> Int[np.ndarray, " slot"]:
    assert dataset.times is not None
    first = np.full(dataset.num_slots, np.iinfo(np.int64).max)
    np.minimum.at(first, dataset.slots, dataset.times)
    return first


def _by_number(title: str, values: Float[np.ndarray, " user"] | np.ndarray) -> Division:
    """Groups of about equally many users; equal values are in one group."""
    quantiles = np.quantile(values, np.linspace(0, 1, _PARTS + 1)[1:-1])
    edges = np.unique(np.floor(quantiles))
    part = np.searchsorted(edges, values, side="left")
    groups = []
    for number in np.unique(part):
        members = part == number
        low, high = (int(np.floor(f(values[members]))) for f in (np.min, np.max))
        name = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        groups.append(UserGroup(name, members))
    return Division(title, groups)


def _by_gap(gap: Int[np.ndarray, " user"], unit: str) -> Division:
    groups, start = [UserGroup(f"same {unit}", gap == 0)], 1
    for name, end in _GAPS:
        below = np.full(len(gap), True) if end is None else gap < end
        groups.append(UserGroup(name, below & (gap >= start)))
        start = end or start
    groups = [one for one in groups if one.members.any()]
    return Division("Time since the last event", groups)


def _by_columns(
    path: Path, dataset: Dataset, users: Int[np.ndarray, " user"]
) -> list[Division]:
    """A division by each column of a file."""
    frame = read_table(path)
    key = "user" if "user" in frame.columns else frame.columns[0]
    names = [str(name) for name in frame.columns if name != key]
    require(
        len(names) > 0,
        f"--user_columns {path} has the column {key} alone, wanted others to divide "
        "users by",
    )
    rows = dataset.find_users(frame[key])
    require(
        bool(np.isin(rows, users).any()),
        f"--user_columns {path}: none of the {len(frame):,} values of its column "
        f"{key} is a user who is evaluated in {dataset.path}",
    )
    found = []
    for name in names:
        cells = frame[name].astype(str).str.strip().mask(frame[name].isna(), "")
        values = dict(zip(rows.tolist(), cells, strict=True))
        own = np.array([values.get(user, "") for user in users.tolist()], object)
        own[own == ""] = NO_VALUE
        kinds, counts = np.unique(own[own != NO_VALUE].astype(str), return_counts=True)
        frequent = kinds[np.argsort(-counts, kind="stable")][:MOST_GROUPS]
        groups = [UserGroup(str(kind), own == kind) for kind in sorted(frequent)]
        rest = ~np.isin(own, [*frequent, NO_VALUE])
        groups.append(UserGroup("all others", rest))
        groups.append(UserGroup(NO_VALUE, own == NO_VALUE))
        found.append(Division(name, [one for one in groups if one.members.any()]))
    return found
