"""Two results of the bench, row by row: what became slower by more than noise."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.clock import Spread
from bench.report import aligned
from eqids.config import UserError, require

OURS = "EqIDs"
LEAST = 0.05
"""Share by which times may differ whatever repetitions say."""

Rows = Mapping[tuple[str, ...], tuple[float, ...]]
"""Seconds of every repetition, by section, case, contender and work."""


@dataclass(frozen=True)
class Change:
    """How our time for one thing changed from the first file to the second.

    Attributes:
        label: section, case and work.
        before: seconds, the median.
        after: seconds, the median.
        peers: how many times as long those took whose code is not ours, in the same
            case; 1 where there are none.
        noise: share by which the ratio may differ from theirs.
    """

    label: str
    before: float
    after: float
    peers: float
    noise: float

    @property
    def ratio(self) -> float:
        """How many times as long ours takes, beyond what the peers' did."""
        return self.after / self.before / self.peers

    @property
    def verdict(self) -> str:
        """Slower or faster beyond noise, or neither."""
        if self.ratio > 1 + self.noise:
            return "REGRESSION"
        return "faster" if self.ratio < 1 / (1 + self.noise) else "-"


def compare(before: Path, after: Path) -> tuple[list[Change], list[str]]:
    """Returns the changes of all rows that both files have, and what sets them apart.

    Raises:
        UserError: a file is not a result, or they share no row of ours.
    """
    files = _read(before), _read(after)
    a, b = (dict(_rows(file)) for file in files)
    both = [key for key in a if key in b]
    changes = [_change(a, b, key, both) for key in both if key[2] == OURS]
    require(
        len(changes) > 0, f"{before} and {after} have no measurement of ours in common"
    )
    notes = [
        f"{name} differs: {files[0].get(name)} and {files[1].get(name)}"
        for name in ("machine", "versions", "commit")
        if files[0].get(name) != files[1].get(name)
    ]
    alone = len(a) + len(b) - 2 * len(both)
    if alone:
        notes.append(f"{alone} rows are in one of the files only")
    return changes, notes


def text(changes: Sequence[Change], notes: Sequence[str]) -> str:
    """Returns a line for each change, and what they come to."""
    lines = [["", "before ms", "after ms", "ratio", "noise", ""]]
    for change in changes:
        times = (f"{1000 * x:.4g}" for x in (change.before, change.after))
        noise = f"{100 * change.noise:.0f}%"
        lines.append(
            [change.label, *times, f"{change.ratio:.3f}", noise, change.verdict]
        )
    slower = [change for change in changes if change.verdict == "REGRESSION"]
    verdict = "no regression beyond noise"
    if slower:
        worst = max(slower, key=lambda change: change.ratio)
        verdict = (
            f"{len(slower)} of {len(changes)} regressed, the worst to "
            f"{worst.ratio:.2f} times: {worst.label}"
        )
    told = [
        "ratio: our time after / before, beyond what peers changed by in the same "
        "case. noise: of all repetitions of both files but tenths at the ends, "
        f"{LEAST:.0%} at least.",
        *notes,
    ]
    return "\n".join([*aligned(lines), "", *told, verdict])


def _change(a: Rows, b: Rows, key: tuple[str, ...], both: Sequence[Any]) -> Change:
    shifts = [
        math.log(_median(b[other]) / _median(a[other]))
        for other in both
        if other[:2] == key[:2] and other[2] != OURS
    ]
    peers = statistics.median(shifts) if shifts else 0.0
    apart = max(shifts, default=0.0) - min(shifts, default=0.0)
    widths = [_width(times) for times in (a[key], b[key])]
    noise = math.expm1(math.hypot(*widths, apart / 2))
    section, case, _, work = key
    label = f"{section}: {work} ({case})"
    return Change(
        label, _median(a[key]), _median(b[key]), math.exp(peers), max(LEAST, noise)
    )


def _width(seconds: tuple[float, ...]) -> float:
    """The logarithm of slowest over fastest, a tenth of the times left out at each end.

    Among many repetitions some are stray.
    """
    stray = len(seconds) // 10
    ordered = sorted(seconds)
    return math.log(ordered[-1 - stray] / ordered[stray])


def _median(seconds: tuple[float, ...]) -> float:
    return Spread.of(seconds).median


def _rows(file: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], tuple]]:
    for section, found in file.items():
        if not isinstance(found, dict) or "rows" not in found:
            continue
        for row in found["rows"]:
            case = ", ".join(f"{name} {value}" for name, value in row["case"].items())
            key = section, case, row["name"], row["work"]
            yield key, tuple(row["timing"][row["clock"]])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    has = isinstance(found, dict) and any(
        isinstance(section, dict) and "rows" in section for section in found.values()
    )
    require(has, f"{path} is no result of the bench, wanted what --json wrote")
    return found
