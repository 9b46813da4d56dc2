"""When a run ends: patience, the bound in time, and the cool-down of schedule wsd."""

import contextlib
import dataclasses
import io
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_dataset, run_python
from kills import logged
from models import NOWHERE
from pytest import CaptureFixture
from runs import small

from eqids import train as train_command
from eqids.checkpoints import read_manifest, steps
from eqids.cli import parse
from eqids.config import NANO_RECIPE, TrainConfig
from eqids.data import Dataset
from eqids.fit import loop
from eqids.fit.cooldown import NOT_BEGUN, cooldown, cooled
from eqids.fit.optimizer import CooldownState, scale_by_cooldown
from eqids.fit.run import Run
from eqids.fit.training_time import TrainingTime
from eqids.runs.inputs import complete_inputs, open_inputs
from eqids.runs.run_folder import locked_folder
from eqids.runs.start_or_restore import start_or_restore
from sharding import Placement

WSD = ["--schedule", "wsd", "--warmup_steps", "2"]


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, seconds: float = 0.0):
        self.now = seconds

    def __call__(self) -> float:
        return self.now


class Timed:
    """A step that takes so many seconds of a clock."""

    def __init__(self, step: Any, clock: Clock, seconds: float):
        self.step, self.clock, self.seconds = step, clock, seconds
        self.trace, self.lower = step.trace, step.lower

    def __call__(self, *args: Any) -> Any:
        self.clock.now += self.seconds
        return self.step(*args)


def trained(
    flags: list[str], each_step: float = 0.0, put: Placement = NOWHERE
) -> loop.Trained:
    """Trains as the command does, where a step takes so many seconds."""
    inputs = open_inputs(parse(TrainConfig, flags, "eqids.train", ""))
    clock = Clock(1e6)
    with contextlib.redirect_stdout(io.StringIO()), put.active():
        with locked_folder(inputs.config) as saver:
            inputs, sizes = complete_inputs(inputs)
            run, state = start_or_restore(inputs, sizes, put, saver)
            timed = Timed(run.step, clock, each_step)
            found = loop.train(dataclasses.replace(run, step=timed), state, clock)
            assert compiled(run) <= 1  # no program for the cool-down of its own
    return found


def compiled(run: Run) -> int:
    return int(run.step._cache_size())  # type: ignore[attr-defined]


def by_hand(num_steps: int, begun: int) -> list[float]:
    """The rate of every step over its largest, one step after the other."""
    first = min(begun, num_steps - num_steps // 5)
    length = min((first + 3) // 4, num_steps - first)
    out = []
    for step in range(num_steps):
        done = min(max(step - first, 0), length) / max(length, 1)
        out.append(1 - 0.99 * done)
    return out


@pytest.mark.parametrize("num_steps", [1, 4, 5, 100, 137])
@pytest.mark.parametrize("begun", [1, 7, 79, 80, 81, 10**9])
def test_the_cooldown_is_a_fifth_of_the_steps(num_steps: int, begun: int) -> None:
    rates = jax.vmap(partial(cooled, num_steps), in_axes=(0, None))
    found = rates(jnp.arange(num_steps), jnp.int32(begun))
    first, last = (int(x) for x in cooldown(num_steps, jnp.int32(begun)))
    wanted = by_hand(num_steps, begun)
    np.testing.assert_allclose(found[:last], wanted[:last], rtol=1e-5)
    assert first <= last <= num_steps
    if last < num_steps:  # a whole cool-down, whenever it began
        assert abs((last - first) - 0.2 * last) <= 1


def test_the_schedule_is_its_warmup_times_its_cooldown() -> None:
    recipe = dataclasses.replace(
        NANO_RECIPE, num_steps=100, warmup_steps=10, learning_rate=0.5, schedule="wsd"
    )
    optimizer = scale_by_cooldown(recipe)
    for begun in (jnp.int32(40), jnp.asarray(NOT_BEGUN)):
        state, found = CooldownState(jnp.int32(0), begun), []
        for _ in range(100):
            update, state = optimizer.update(jnp.ones(()), state)
            found.append(-float(update))
        rising = np.minimum(np.arange(100) / 10, 1)
        wanted = 0.5 * rising * by_hand(100, int(begun))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.long
def test_patience_begins_the_cooldown_and_resuming_changes_no_bit(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """With a rate of almost nothing, no evaluation is better than the first."""
    more = [*WSD, "--early_stop", "2", "--eval_every", "4", "--log_every", "1"]
    more += ["--learning_rate", "1e-7", "--num_steps", "80", "--keep", "99"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_command.main(small(dataset.path, whole, *more))
    said = capsys.readouterr().out
    best = next(n for n in steps(whole) if read_manifest(whole / str(n)).meta["score"])
    # Patience was spent two evaluations after the best; a quarter more steps follow.
    begun = int(said.split("no better evaluation")[0].split()[-1])
    end = begun + -(-begun // 4)
    assert best < begun < end < 80 and steps(whole)[-1] == end
    assert f"no better evaluation: the learning rate falls until {end}" in said
    assert (whole / "result.json").exists()
    for stop in (begun, begun + 1):
        train_command.main(small(dataset.path, run, *more, "--stop_at", str(stop)))
        assert not (run / "result.json").exists()
    train_command.main(small(dataset.path, run, *more))
    assert logged(run) == logged(whole) and steps(run)[-1] == end
    one, two = (read_manifest(folder / str(end)).arrays for folder in (whole, run))
    assert one == two and any(name.endswith("/begun") for name in one)
    results = [(folder / "result.json").read_text() for folder in (whole, run)]
    assert results[0] == results[1]
    # It is finished: the same command trains no more.
    before = (run / "metrics.jsonl").read_text()
    train_command.main(small(dataset.path, run, *more))
    assert (run / "metrics.jsonl").read_text() == before


def test_the_time_ends_a_run_with_its_cooldown_done(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Of 60 minutes and 60 s a step, 48 steps are constant and 12 cool down."""
    more = [*WSD, "--num_steps", "1000", "--max_minutes", "60", "--eval_every", "500"]
    more += ["--save_every", "500", "--early_stop", "0"]
    flags = small(dataset.path, tmp_path / "run", *more)
    assert trained(flags, 60.0) == (60, True)
    meta = read_manifest(tmp_path / "run" / "60").meta
    assert meta["train_seconds"] == 3600.0 and meta["score"] is not None
    assert trained(flags, 60.0) == (60, True)
    assert steps(tmp_path / "run") == [60]


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_resumed_run_counts_the_minutes_before(
    schedule: str, dataset: Dataset, tmp_path: Path
) -> None:
    more = ["--schedule", schedule, "--max_minutes", "10", "--early_stop", "0"]
    flags = small(dataset.path, tmp_path / "run", *more, "--num_steps", "1000")
    for stop, finished in ((3, False), (9, False), (500, True)):
        found = trained([*flags, "--stop_at", str(stop)], 60.0)
        assert found == (min(stop, 10), finished)
    # More time lets it go on where it was cut, unless it has cooled down.
    more_time = ["20" if word == "10" else word for word in flags]
    assert trained(more_time, 60.0).step == (20 if schedule == "cosine" else 10)


ON_A_MESH = """
import sys
sys.path.insert(0, "tests")
from test_run_end import trained
from sharding import placement
print(*trained(FLAGS, 60.0, placement("fsdp")))
"""


@pytest.mark.long
def test_a_cooldown_begins_on_a_mesh_too(dataset: Dataset, tmp_path: Path) -> None:
    """Without another program, for dense and for row-sparse updates."""
    for items in ("dense", "lazy_adam"):
        more = [
            *WSD,
            "--num_steps",
            "1000",
            "--max_minutes",
            "10",
            "--eval_every",
            "50",
        ]
        more += ["--item_optimizer", items]
        flags = small(dataset.path, tmp_path / items, *more)
        code = ON_A_MESH.replace("FLAGS", repr(flags))
        assert run_python(code, devices=2).split() == ["10", "True"]


def test_a_run_without_a_bound_knows_no_time() -> None:
    clock = Clock()
    time = TrainingTime(before=5.0, now=clock)
    clock.now = 1e12
    assert time.seconds == 1e12 + 5 and not time.cools and not time.over
    bound = TrainingTime(before=5.0, max_minutes=1.0, now=clock)
    found = []
    for seconds in (42.9, 43.0, 54.9, 55.0):
        clock.now = 1e12 + seconds
        found.append((bound.cools, bound.over))
    assert found == [(False, False), (True, False), (True, False), (True, True)]
    assert not bound.begins_over
    assert TrainingTime(before=60.0, max_minutes=1.0, now=clock).begins_over


@pytest.mark.long
def test_a_run_stops_early_by_default_and_the_bound_is_no_setting(
    tmp_path: Path,
) -> None:
    data = make_dataset(tmp_path / "d", seed=3)
    more = ["--eval_every", "1", "--learning_rate", "1e-9", "--num_steps", "300"]
    flags = small(data.path, tmp_path / "run", *more)
    train_command.main(flags)
    stopped = steps(tmp_path / "run")[-1]
    assert 5 < stopped < 300
    # Neither patience nor a bound has to be repeated, nor kept.
    train_command.main([*flags, "--max_minutes", "600", "--early_stop", "7"])
    assert stopped < steps(tmp_path / "run")[-1] < 300
