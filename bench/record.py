"""What a section measured: rows of timings, and the numbers that they come to."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.clock import Spread, Timing

OURS = "EqIDs"
"""What tables call ours."""
Case = Mapping[str, float]
"""What was measured: catalog, width and so on."""


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        case: what was measured.
        name: the contender.
        work: what it did.
        units: targets, queries, rows or users in one repetition.
        timing: every repetition.
        clock: which of its two times counts, see `bench.contender.race`.
        device: that jax used.
        compile_seconds: wall time of compilation, apart from the repetitions.
        temp_bytes: temporaries of the compiled program.
        peak_bytes: of the process during the first repetition, the tables of all
            contenders included.
        facts: what else is known, such as the clusters touched.
        process: what measured it, among other rows; see `bench.contender.measure_each`.
    """

    case: Case
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
        """Seconds for one of its units."""
        return self.seconds.median / self.units


@dataclass(frozen=True)
class Curve:
    """What a plot shows: named series of points, see `bench.plot.save`."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


FIRST = "the first time"
"""What work is called that was done once, in a process of its own."""


def row_of_bytes(
    size: int, case: Case, name: str, work: str, timing: Timing, device: str
) -> Row:
    """Returns the row of something that moves so many bytes, whose units are MB."""
    row = Row(case, name, work, max(1, round(size / 1e6)), timing, "wall", device)
    return dataclasses.replace(row, facts={"GB/s": size / row.seconds.median / 1e9})


def of_one_size(title: str, rows: Sequence[Row]) -> Curve:
    """Returns the seconds of every way that was timed in turns, at the one size."""
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
        keys: numbers that others rely on; None for what was not measured.
        meanings: of each key, one line.
        rows: all timings.
        notes: sentences that a reader must know.
        curve: to plot.
    """

    name: str
    keys: Mapping[str, float | None]
    meanings: Mapping[str, str]
    rows: Sequence[Row]
    notes: Sequence[str]
    curve: Curve

    def to_json(self) -> dict[str, Any]:
        """Returns keys, notes and rows with every repetition, as JSON values."""
        rows = [
            {**dataclasses.asdict(row), "seconds": dataclasses.asdict(row.seconds)}
            for row in self.rows
        ]
        return {**self.keys, "notes": list(self.notes), "rows": rows}


def find(rows: Sequence[Row], name: str, work: str, **case: float) -> Row | None:
    """Returns the first row of a contender whose case has these values."""
    for row in rows:
        if (row.name, row.work) == (name, work) and case.items() <= row.case.items():
            return row
    return None


def ratio(slow: Row | None, fast: Row | None) -> float | None:
    """Returns how many times the second's median fits into the first's.

    None where one of them is missing, or they ran on devices of two kinds.
    """
    if slow is None or fast is None or slow.device != fast.device:
        return None
    return slow.seconds.median / fast.seconds.median
