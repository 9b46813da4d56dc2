"""Results of a section: rows of timings, and keys, the numbers computed from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.clock import Spread, Timing

OURS = "EqIDs"
"""Our name in tables."""
CaseNumbers = Mapping[str, float]
"""Sizes of what was measured: of the catalog, of vectors and so on, by name."""


@dataclass(frozen=True)
class ResultRow:
    """The timing of one contender in one case.

    Attributes:
        case: the sizes.
        name: the contender.
        work: what it did.
        units: targets, queries, rows or users in one repetition.
        timing: every repetition.
        clock: which of the two times counts, see `bench.contender.race`.
        device: the kind of device that it ran on.
        compile_seconds: wall time of compilation, apart from the repetitions.
        temp_bytes: temporaries of the compiled program.
        peak_bytes: peak memory of the process during the first repetition, the tables
            of all contenders included.
        facts: other numbers, such as how many clusters are active.
        process: the process that measured it, see `bench.contender.measure_each`.
    """

    case: CaseNumbers
    name: str
    work: str
    units: int
    timing: Timing
    clock: Literal["cpu", "wall"]
    device: str
    compile_seconds: float | None = None
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    process: str = ""

    @property
    def seconds(self) -> Spread:
        """The median of the repetitions, and their quartiles."""
        return Spread.of(getattr(self.timing, self.clock))

    @property
    def each(self) -> float:
        """Seconds for one unit."""
        return self.seconds.median / self.units


@dataclass(frozen=True)
class Curve:
    """Named series of points to plot, see `bench.plot.save`."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


FIRST = "the first time"
"""End of the name of work that was done once, in its own process."""


def row_of_bytes(
    size: int, case: CaseNumbers, name: str, work: str, timing: Timing, device: str
) -> ResultRow:
    """Returns the row of work on this many bytes; its units are MB."""
    row = ResultRow(case, name, work, max(1, round(size / 1e6)), timing, "wall", device)
    return dataclasses.replace(row, facts={"GB/s": size / row.seconds.median / 1e9})


def of_one_size(title: str, rows: Sequence[ResultRow]) -> Curve:
    """Returns the seconds of all rows that were timed in turns, at their one size."""
    series = {
        f"{row.name}, {row.work}": [(float(row.case["MB"]), row.seconds.median)]
        for row in rows
        if not row.work.endswith(FIRST)
    }
    return Curve(title, "MB", "seconds", series)


@dataclass(frozen=True)
class Section:
    """One section of the bench, measured.

    Attributes:
        name: its subcommand.
        keys: numbers that others rely on; None for those that were not measured.
        meanings: one line about each key.
        rows: all timings.
        notes: sentences that a reader must know.
        curve: the curve to plot.
    """

    name: str
    keys: Mapping[str, float | None]
    meanings: Mapping[str, str]
    rows: Sequence[ResultRow]
    notes: Sequence[str]
    curve: Curve

    def to_json(self) -> dict[str, Any]:
        """Returns keys, notes and rows with every repetition, as JSON values."""
        rows = [
            {**dataclasses.asdict(row), "seconds": dataclasses.asdict(row.seconds)}
            for row in self.rows
        ]
        return {**self.keys, "notes": list(self.notes), "rows": rows}


def joined(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Returns rows with the repetitions of all that have the same name and work.

    The first of them stays, with the largest of each fact.
    """
    found: dict[tuple[str, str], ResultRow] = {}
    for row in rows:
        before = found.get((row.name, row.work))
        if before is not None:
            timing = Timing(
                before.timing.wall + row.timing.wall,
                before.timing.cpu + row.timing.cpu,
            )
            names = before.facts.keys() | row.facts.keys()
            facts = {
                name: max(one.facts[name] for one in (before, row) if name in one.facts)
                for name in sorted(names)
            }
            row = dataclasses.replace(before, timing=timing, facts=facts)
        found[row.name, row.work] = row
    return list(found.values())


def find(
    rows: Sequence[ResultRow], name: str, work: str, **case: float
) -> ResultRow | None:
    """Returns the first row of a contender whose case has these sizes."""
    for row in rows:
        if (row.name, row.work) == (name, work) and case.items() <= row.case.items():
            return row
    return None


def ratio(slow: ResultRow | None, fast: ResultRow | None) -> float | None:
    """Returns the median of the slow row over that of the fast one.

    None if a row is missing, or if they ran on different kinds of devices.
    """
    if slow is None or fast is None or slow.device != fast.device:
        return None
    return slow.seconds.median / fast.seconds.median
