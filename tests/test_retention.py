"""The checkpoints in a run's folder: list them, find the best, delete old ones."""

from pathlib import Path

import pytest
from saved import run_of

from eqids.checkpoints import (
    Retention,
    best_step,
    latest_step,
    partials,
    prune,
    resolve,
    steps,
)
from eqids.config import UserError


def test_best_latest_and_prune(tmp_path: Path) -> None:
    run = run_of(tmp_path, {2: 0.1, 10: 0.3, 9: 0.3, 30: None, 100: 0.2})
    (run / "007").mkdir()
    (run / "12").write_text("a file")
    assert steps(run) == [2, 9, 10, 30, 100]
    assert latest_step(run) == 100
    assert best_step(run) == 9
    assert resolve(run) == run / "9"
    assert resolve(run / "2") == run / "2"
    prune(run, Retention(keep=1, keep_every=15))
    assert steps(run) == [9, 30, 100]
    assert partials(run) == []
    prune(run, Retention(keep=5))
    assert steps(run) == [9, 30, 100]
    prune(run, Retention(keep=1))
    assert steps(run) == [9, 100]


def test_without_scores_the_newest_is_best(tmp_path: Path) -> None:
    run = run_of(tmp_path, {1: None, 3: None, 2: float("nan")})
    assert best_step(run) == 3
    assert best_step(tmp_path / "none") is None
    assert latest_step(tmp_path / "none") is None


def test_resolve_says_what_it_wanted(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {1: 0.5, 2: 0.4})
    with pytest.raises(UserError, match=r"run/3: no such folder.*has steps \[1, 2\]"):
        resolve(run / "3")
    with pytest.raises(UserError, match="neither a checkpoint .* nor a run"):
        resolve(tmp_path)
    (run / "2" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="step 2 of .*manifest.json .* is damaged"):
        resolve(run)
