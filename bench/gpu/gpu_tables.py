"""Results of `python -m bench gpu` as text to print."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.gpu.gpu_parts import PARTS
from bench.result_tables import aligned


def part_text(name: str, result: Mapping[str, Any]) -> str:
    """Returns a part: its status, its rows in tables, what was left out, errors.

    Args:
        name: the part's name.
        result: its result, see `bench.gpu.run_parts.PartResult`.
    """
    environment = result["environment"] or {}
    device = environment.get("device", "no device")
    lines = [
        f"== {name}: {PARTS[name].does}",
        f"   {result['status']}, {result['seconds']:.0f} s, of processors "
        f"{result['cpu_seconds']:.0f} s, {device}",
        *_tables(result["rows"]),
    ]
    lines += [f"  left out: {case}: {why}" for case, why in result["left_out"]]
    lines += [f"  error: {one['case']}: {one['error']}" for one in result["errors"]]
    return "\n".join(lines) + "\n"


def _tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One table for consecutive rows of the same numbers."""
    lines, begun = list[str](), list[Mapping[str, Any]]()
    for row in rows:
        if begun and list(begun[-1]["numbers"]) != list(row["numbers"]):
            lines += _table(begun)
            begun = []
        begun.append(row)
    return lines + _table(begun)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(rows[0]["numbers"])
    cells = [["", *names, ""]]
    for row in rows:
        numbers = [_number(row["numbers"][name]) for name in names]
        cells.append([row["work"], *numbers, row["note"]])
    return ["  " + line.rstrip() for line in aligned(cells)]


def _number(x: float | None) -> str:
    if x is None:
        return "-"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"
