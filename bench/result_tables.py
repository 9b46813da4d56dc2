"""Results of the bench as a table to print, and as JSON."""

from collections.abc import Sequence
from typing import Any

from bench import machine
from bench.options import Options
from bench.record import FIRST, OURS, ResultRow, Section
from eqids.config import to_json


def result(section: Section, options: Options, busy: float | None) -> dict[str, Any]:
    """Returns a section with its flags, machine and versions, as JSON values.

    Args:
        section: the measured section.
        options: its flags.
        busy: number of cores that others kept busy before it began, if known.
    """
    return {
        "busy_cores": busy,
        section.name: section.to_json(),
        "config": to_json(options),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def table(section: Section) -> str:
    """Returns a section as text to print: timings, keys with their meaning, notes."""
    cases = _names([row.case for row in section.rows])
    facts = _names([row.facts for row in section.rows])
    head = [*cases, "", "", "ms", "quartiles", "us each", "runs", "compile s",
            "temp MB", "peak MB", *facts]  # fmt: skip
    lines = [head]
    for row in section.rows:
        lines.append(
            [_cell(row.case.get(name)) for name in cases]
            + [row.name, row.work, *_timing(row)]
            + [_cell(row.facts.get(name)) for name in facts]
        )
    text = [*aligned(lines), ""]
    widest = max(map(len, section.meanings), default=0)
    for name, meaning in section.meanings.items():
        value = section.keys[name]
        shown = "not measured" if value is None else f"{value:.3g}"
        text.append(f"{section.name}.{name:<{widest}} {shown:>12}  {meaning}")
    return "\n".join([*text, "", *_explained(section.rows), *section.notes])


def _explained(rows: Sequence[ResultRow]) -> list[str]:
    """Explains the timings."""
    clocks = {"wall": "wall time", "cpu": "CPU time of all threads"}
    used = " or ".join(clocks[clock] for clock in sorted({row.clock for row in rows}))
    notes = [f"ms: medians of {used}."]
    if any(
        len(row.timing.wall) == 1 and row.name != OURS and not row.work.endswith(FIRST)
        for row in rows
    ):
        notes.append(
            "A peer with 1 run was only warmed up, because that took its --budget: a "
            "ratio to it flatters ours."
        )
    return notes


def _names(cells: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for row in cells for name in row))


def _timing(row: ResultRow) -> list[str]:
    spread = row.seconds
    low, median, high = (
        _number(1000 * x) for x in (spread.low, spread.median, spread.high)
    )
    each = _number(1e6 * row.each)
    compiling = "-" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"
    return [
        median, f"{low} to {high}", each, str(len(row.timing.wall)), compiling,
        _megabytes(row.temp_bytes), _megabytes(row.peak_bytes),
    ]  # fmt: skip


def _number(x: float) -> str:
    """Returns a number with three or more digits, and no exponent."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.1f}"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else _number(value)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Returns lines with aligned columns: numbers to the right, text to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def cells(line: Sequence[str]) -> list[str]:
        return [
            cell.rjust(width)
            if cell[:1].isdigit() or cell == "-"
            else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ]

    return ["  ".join(cells(line)).rstrip() for line in lines]
