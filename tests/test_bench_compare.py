"""Comparing two results of the bench: noise, drift, and a build that was slowed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pytest import CaptureFixture
from runs import refused

from bench import __main__ as command, compare
from bench.clock import Timing
from bench.record import Curve, ResultRow, Section

REGRESSION = "REGRESSION"


def timing(seconds: float, seed: int, spread: float = 0.02) -> Timing:
    rng = np.random.default_rng(seed)
    times = tuple(seconds * np.exp(spread * rng.standard_normal(7)))
    return Timing(times, tuple(2 * t for t in times))


def row(name: str, work: str, timing: Timing, process: str = "") -> ResultRow:
    return ResultRow(
        {"batch": 8}, name, work, 8, timing, "wall", "cpu", process=process
    )


def written(path: Path, rows: list[ResultRow], **more: Any) -> Path:
    section = Section("train", {"ratio": 1.0}, {"ratio": ""}, rows, [],
                      Curve("", "", "", {}))  # fmt: skip
    result = {"train": section.to_json(), "machine": {"cpu": "x"}, "commit": "a"}
    path.write_text(json.dumps({**result, **more}))
    return path


def verdicts(before: Path, after: Path) -> dict[str, str]:
    changes, _ = compare.compare(before, after)
    return {change.label: change.verdict for change in changes}


def test_a_slowed_copy_is_flagged(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    rows = [row("EqIDs", "step", timing(1, 0)), row("EqIDs", "head", timing(1, 1))]
    before = written(tmp_path / "a.json", rows)
    slow = [row("EqIDs", "step", timing(1.3, 2)), row("EqIDs", "head", timing(0.7, 3))]
    after = written(tmp_path / "b.json", slow, commit="b")
    found = verdicts(before, after)
    assert found == {
        "train: step (batch 8)": REGRESSION,
        "train: head (batch 8)": "faster",
    }
    with pytest.raises(SystemExit) as exit_:
        command.main(["compare", str(before), str(after)])
    assert exit_.value.code == 1
    said = capsys.readouterr().out
    assert "1 of 2 regressed" in said and "commit differs: a and b" in said
    command.main(["compare", str(before), str(before)])
    assert "no regression beyond noise" in capsys.readouterr().out


@given(st.integers(0, 10_000), st.floats(0.0, 0.1))
def test_two_runs_of_one_build_are_the_same(seed: int, spread: float) -> None:
    key = "train", "", "", "EqIDs", "step"
    one, two = ({key: timing(1, 2 * seed + turn, spread).wall} for turn in (0, 1))
    assert compare._change(one, two, key, [key]).verdict in ("-", compare.UNKNOWN)


def test_a_machine_that_is_slower_slows_the_peers_too(tmp_path: Path) -> None:
    rows = [row("EqIDs", "step", timing(1, 0)), row("torch", "step", timing(2, 1))]
    slow = [row("EqIDs", "step", timing(1.5, 2)), row("torch", "step", timing(3, 3))]
    before = written(tmp_path / "a.json", rows)
    after = written(tmp_path / "b.json", slow)
    (change,) = compare.compare(before, after)[0]
    assert change.verdict == "-"
    assert change.ratio == pytest.approx(1, abs=0.05)
    # Without the slower peer, it is a regression.
    after = written(tmp_path / "b.json", [slow[0], rows[1]])
    assert verdicts(before, after) == {"train: step (batch 8)": REGRESSION}


def test_noisy_repetitions_widen_the_band(tmp_path: Path) -> None:
    key = "train", "", "", "EqIDs", "step"
    calm, noisy = (1.0, 1.01, 1.01, 1.01, 1.02), (1.0, 1.3, 1.3, 1.3, 1.4)
    slower = (1.3, 1.31, 1.31, 1.31, 1.32)
    assert compare._change({key: calm}, {key: slower}, key, [key]).verdict == REGRESSION
    assert compare._change({key: calm}, {key: noisy}, key, [key]).verdict == "-"
    noisier = compare._change({key: calm}, {key: (1.0, 2, 2, 2, 3)}, key, [key])
    few = compare._change({key: calm}, {key: slower[:4]}, key, [key])
    assert noisier.verdict == few.verdict == compare.UNKNOWN
    said = compare.text([noisier, few], [])
    assert "no regression beyond noise; 2 of 2 have no verdict" in said


def test_what_became_faster_is_no_regression_whatever_peers_did(
    tmp_path: Path,
) -> None:
    rows = [row("EqIDs", "step", timing(1, 0)), row("torch", "step", timing(2, 1))]
    before = written(tmp_path / "a.json", rows)
    quick = [row("EqIDs", "step", timing(0.9, 2)), row("torch", "step", timing(1, 3))]
    after = written(tmp_path / "b.json", quick)
    (change,) = compare.compare(before, after)[0]
    assert change.ratio > 1.5 and change.verdict == "-"


def test_noisy_peers_and_those_timed_once_prove_little(tmp_path: Path) -> None:
    ours = row("EqIDs", "step", timing(1, 0))
    slow = row("EqIDs", "step", timing(1.25, 2))

    def change(*peers: Timing) -> compare.TimeChange:
        files = [
            written(tmp_path / f"{name}.json", [mine, row("torch", "step", peer)])
            for name, mine, peer in zip("ab", (ours, slow), peers, strict=True)
        ]
        return compare.compare(*files)[0][0]

    once = change(Timing((2.0,), (2.0,)), Timing((1.0,), (1.0,)))
    assert once.peers == 1 and once.verdict == REGRESSION
    noisy = change(timing(2, 1, spread=0.3), timing(2, 3, spread=0.3))
    assert noisy.noise is not None and noisy.noise > 0.3
    assert noisy.verdict != REGRESSION


def test_rows_of_other_processes_are_others(tmp_path: Path) -> None:
    """The same contender at the same work, in float32 and in bfloat16."""
    rows = [
        row(name, "step", timing(seconds, number), process)
        for number, process in enumerate(("float32", "bfloat16"))
        for name, seconds in (("EqIDs", 1.0), ("jax", 2.0))
    ]
    before = written(tmp_path / "a.json", rows)
    rows[3] = row("jax", "step", timing(4.0, 3), "bfloat16")
    after = written(tmp_path / "b.json", rows)
    changes = {change.label: change for change in compare.compare(before, after)[0]}
    assert changes["train: step (float32, batch 8)"].peers == 1
    assert changes["train: step (bfloat16, batch 8)"].peers > 1.5


def test_flags_that_change_the_work_are_noted(tmp_path: Path) -> None:
    rows = [row("EqIDs", "step", timing(1, 0))]
    flags = {"targets": 1024, "seed": 0, "repetitions": 7, "json": "a.json"}
    before = written(tmp_path / "a.json", rows, config=flags)
    flags = {"targets": 128, "seed": 0, "repetitions": 5, "json": "b.json"}
    after = written(tmp_path / "b.json", rows, config=flags)
    notes = compare.compare(before, after)[1]
    assert notes == ["--targets differs, so the work may too: 1024 and 128"]
    whole = [
        written(tmp_path / f"{number}.json", rows, config={"train": {"seed": number}})
        for number in (0, 1)
    ]
    assert "--train.seed differs" in compare.compare(*whole)[1][0]


def test_mistakes_of_comparing_are_one_sentence(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    good = written(tmp_path / "a.json", [row("EqIDs", "step", timing(1, 0))])
    other = written(tmp_path / "o.json", [row("EqIDs", "other", timing(1, 0))])
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text('{"machine": {}}')
    (tmp_path / "d.json").write_text("[" * 100_000)
    rows = json.loads(good.read_text())["train"]["rows"]
    nothing, never = ({**rows[0], "timing": {"wall": x}} for x in ([], [0.0]))
    nameless = {key: x for key, x in rows[0].items() if key != "name"}
    bad = {"rows": 3, "words": ["x"], "nameless": [nameless], "nothing": [nothing],
           "never": [never]}  # fmt: skip
    for name, value in bad.items():
        content = json.dumps({"train": {"rows": value}})
        (tmp_path / f"{name}.json").write_text(content)
    for name, tokens in (
        ("no.json", "could not be read"),
        ("b.json", "is not JSON"),
        ("c.json", "is not a result of the bench"),
        ("d.json", "is not JSON"),
        ("rows.json", "is not a result of this version's bench"),
        ("words.json", "is not a result of this version's bench"),
        ("nameless.json", "KeyError('name') in a row of train"),
        ("nothing.json", "took [], wanted seconds"),
        ("never.json", "took [0.0], wanted seconds"),
        (other.name, "have no measurement of ours in common"),
    ):
        said = refused(
            command.main, ["compare", str(good), str(tmp_path / name)], capsys
        )
        assert tokens in " ".join(said.split())
