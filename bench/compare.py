"""Compares two results of the bench row by row: what is slower by more than noise."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.clock import Spread
from bench.record import OURS
from bench.result_tables import aligned
from eqids.config import UserError, require

LEAST = 0.1
"""Least noise, as a share: two processes of one build differed by 6% on a quiet
machine, their own repetitions by less than 1%."""
MOST = 0.5
"""Noise above which there is no verdict."""
FEWEST = 5
"""Repetitions below which there is no verdict; --quick has fewer."""
REGRESSION, UNKNOWN = "REGRESSION", "cannot tell"

Key = tuple[str, str, str, str, str]
"""Section, process, case, contender and work."""
TimesByKey = Mapping[Key, tuple[float, ...]]
"""By row, the seconds of every repetition."""
_HOW_OFTEN = {"json", "plot", "profile", "repetitions", "budget"}
"""Flags that do not change the work."""


@dataclass(frozen=True)
class TimeChange:
    """How one of our times changed from the first file to the second.

    Attributes:
        label: section, process, case and work.
        before: seconds, the median.
        after: seconds, the median.
        peers: how many times as long the peers took in the second file, in the same
            case and process; 1 if none was timed more than once.
        noise: share by which the ratio may differ from 1; None if ours was timed too
            few times to know.
    """

    label: str
    before: float
    after: float
    peers: float
    noise: float | None

    @property
    def ratio(self) -> float:
        """How many times as long ours takes, over how many times the peers do."""
        return self.after / self.before / self.peers

    @property
    def verdict(self) -> str:
        """Slower or faster by more than noise, neither, or unknown.

        A time that did not grow has not regressed, whatever the peers did.
        """
        if self.noise is None or self.noise > MOST:
            return UNKNOWN
        if self.ratio > 1 + self.noise:
            return REGRESSION if self.after > self.before else "-"
        return "faster" if self.ratio < 1 / (1 + self.noise) else "-"


def compare(before: Path, after: Path) -> tuple[list[TimeChange], list[str]]:
    """Returns the changes of all rows that both files have, and notes on differences.

    Raises:
        UserError: a file is not a result, or no row of ours is in both.
    """
    files = _read(before), _read(after)
    a, b = _rows(files[0], before), _rows(files[1], after)
    both = [key for key in a if key in b]
    changes = [_change(a, b, key, both) for key in both if key[3] == OURS]
    require(
        len(changes) > 0, f"{before} and {after} have no measurement of ours in common"
    )
    notes = [
        f"{name} differs: {files[0].get(name)} and {files[1].get(name)}"
        for name in ("machine", "versions", "commit")
        if files[0].get(name) != files[1].get(name)
    ]
    flags = [dict(_flags(file.get("config"))) for file in files]
    notes += [
        f"--{name} differs, so the work may too: {flags[0][name]} and {flags[1][name]}"
        for name in flags[0]
        if name in flags[1] and flags[0][name] != flags[1][name]
    ]
    alone = len(a) + len(b) - 2 * len(both)
    if alone:
        notes.append(f"{alone} rows are in only one of the files")
    return changes, notes


def text(changes: Sequence[TimeChange], notes: Sequence[str]) -> str:
    """Returns a line for each change, notes, and a verdict on all of them."""
    lines = [["", "before ms", "after ms", "ratio", "noise", ""]]
    for change in changes:
        times = (f"{1000 * x:.4g}" for x in (change.before, change.after))
        noise = "-" if change.noise is None else f"{100 * change.noise:.0f}%"
        lines.append(
            [change.label, *times, f"{change.ratio:.3f}", noise, change.verdict]
        )
    slower = [change for change in changes if change.verdict == REGRESSION]
    unknown = sum(change.verdict == UNKNOWN for change in changes)
    verdict = "no regression beyond noise"
    if slower:
        worst = max(slower, key=lambda change: change.ratio)
        verdict = (
            f"{len(slower)} of {len(changes)} regressed, the worst to "
            f"{worst.ratio:.2f} times: {worst.label}"
        )
    if unknown:
        verdict += (
            f"; {unknown} of {len(changes)} have no verdict: timed fewer than "
            f"{FEWEST} times, or noise of more than {MOST:.0%} (wanted a quiet "
            "machine, more --repetitions)"
        )
    explained = [
        "ratio: our time after / before, over the same ratio of the peers in the same "
        "case. noise: spread of the repetitions of both files, ours and peers', "
        f"without the tenth at each end; at least {LEAST:.0%}.",
        *notes,
    ]
    return "\n".join([*aligned(lines), "", *explained, verdict])


def _change(a: TimesByKey, b: TimesByKey, key: Key, both: Sequence[Key]) -> TimeChange:
    peers = [
        other
        for other in both
        if other[:3] == key[:3]
        and other[3] != OURS
        and min(len(a[other]), len(b[other])) > 1
    ]
    shifts = [math.log(_median(b[peer]) / _median(a[peer])) for peer in peers]
    apart = max(shifts, default=0.0) - min(shifts, default=0.0)
    widths = [_width(times) for times in (a[key], b[key])]
    # The more peers, the less each of them changes the median of their shifts.
    widths += [_width(rows[peer]) / len(peers) for peer in peers for rows in (a, b)]
    noise = max(LEAST, math.expm1(math.hypot(*widths, apart / 2)))
    section, process, case, _, work = key
    return TimeChange(
        label=f"{section}: {work} ({', '.join(filter(None, (process, case)))})",
        before=_median(a[key]),
        after=_median(b[key]),
        peers=math.exp(statistics.median(shifts)) if shifts else 1.0,
        noise=noise if min(len(a[key]), len(b[key])) >= FEWEST else None,
    )


def _width(seconds: tuple[float, ...]) -> float:
    """Returns the logarithm of slowest over fastest, without outliers.

    A tenth of the times is left out at each end.
    """
    stray = len(seconds) // 10
    ordered = sorted(seconds)
    return math.log(ordered[-1 - stray] / ordered[stray])


def _median(seconds: tuple[float, ...]) -> float:
    return Spread.of(seconds).median


def _rows(file: Mapping[str, Any], path: Path) -> dict[Key, tuple[float, ...]]:
    found: dict[Key, tuple[float, ...]] = {}
    for section, content in file.items():
        if not isinstance(content, dict) or "rows" not in content:
            continue
        try:
            timed = [_timed(section, row) for row in content["rows"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a result of this version's bench: {error!r} in a row "
                f"of {section}"
            ) from error
        for key, times in timed:
            good = len(times) > 0 and all(0 < seconds < math.inf for seconds in times)
            require(
                good,
                f"{path}: {section}, {key[4]} of {key[3]} took {list(times)}, wanted "
                "seconds",
            )
        found |= dict(timed)
    return found


def _timed(section: str, row: Mapping[str, Any]) -> tuple[Key, tuple[float, ...]]:
    case = ", ".join(f"{name} {x}" for name, x in row["case"].items())
    key = section, row["process"], case, row["name"], row["work"]
    return key, tuple(float(x) for x in row["timing"][row["clock"]])


def _flags(config: object, section: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the flags of a result; with several sections as SECTION.FLAG."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            yield from _flags(value, f"{name}.")
        elif name not in _HOW_OFTEN:
            yield section + name, value


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} could not be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    has = isinstance(found, dict) and any(
        isinstance(section, dict) and "rows" in section for section in found.values()
    )
    require(has, f"{path} is not a result of the bench, wanted what --json wrote")
    return found
