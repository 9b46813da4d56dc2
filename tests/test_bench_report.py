"""What the bench makes of its rows: ratios, tables and pictures."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from bench.clock import Timing
from bench.machine import busy_cores
from bench.plot import save
from bench.record import Curve, ResultRow, Section, find, ratio
from bench.result_tables import table


def row(name: str, *seconds: float, **case: float) -> ResultRow:
    return ResultRow(case, name, "step", 10, Timing(seconds, seconds), "cpu", "cpu")


def test_rows_are_found_by_case_and_compared_by_medians() -> None:
    rows = [row("a", 1, 2, 9, n=1), row("b", 8, 8, n=1), row("b", 20, n=2, m=1)]
    assert find(rows, "b", "step", n=2) == rows[2]
    assert find(rows, "a", "step", n=2) is None
    assert ratio(find(rows, "b", "step"), rows[0]) == 4
    assert ratio(None, rows[0]) is None
    assert ratio(dataclasses.replace(rows[1], device="gpu"), rows[0]) is None
    assert rows[0].each == 0.2


def test_the_table_shows_every_row_key_and_note() -> None:
    rows = [row("ours", 0.001, 0.002, 0.004, items=1_000), row("full", 2.5, items=7)]
    curve = Curve("", "", "", {})
    keys, meanings = {"x": 2.0, "y": None}, {"x": "one", "y": "two"}
    text = table(Section("some", keys, meanings, rows, ["a note"], curve))
    assert [line.split() for line in text.splitlines()] == [
        "items ms quartiles us each runs compile s temp MB peak MB".split(),
        "1,000 ours step 2 1.5 to 3 200 3 - - -".split(),
        "7 full step 2,500 2,500 to 2,500 250,000 1 - - -".split(),
        [],
        "some.x 2 one".split(),
        "some.y not measured two".split(),
        [],
        "ms: medians of CPU time of all threads.".split(),
        "A peer with 1 run was only warmed up, because that took its --budget: a "
        "ratio to it flatters ours.".split(),
        ["a", "note"],
    ]


def test_single_points_are_bars_and_others_lines(tmp_path: Path) -> None:
    """As many as there are, each with its name; nothing else is left beside them."""
    points = [(1.0, 2.0), (2.0, 8.0)]
    lines = {f"way {number}, with a long name": points for number in range(23)}
    bars = {name: points[:1] for name in lines}
    for name, series in (("lines", lines), ("bars", bars)):
        save(Curve("title", "MB", "seconds", series), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_core_that_is_kept_busy_is_seen() -> None:
    code = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            assert busy_cores(1.0) > 0.5
        finally:
            other.kill()
