"""Recommendations: users a second in a batch, and how long one user waits."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from bench.bench_datasets import opened
from bench.clock import Timing
from bench.contender import Contender, Measured, measure_each, race
from bench.options import RecommendOptions
from bench.record import OURS, Curve, Row, Section, find
from eqids.checkpoints import resolve
from eqids.config import LLAMA_PRESETS, TrainConfig
from eqids.data import Dataset
from eqids.inference.open import Opened, open_checkpoint
from eqids.inference.recommender import History, Recommender
from eqids.runs.new_model import initial_model, model_config, run_keys
from eqids.runs.recipe import resolved
from sharding import placement

FIRST, AGAIN, MANY = "one user, the first time", "one user", "many users"

MEANINGS = {
    "users_per_second": "histories answered in a second, many at a time",
    "first_ms": "the first answer for one user in a process, compiled for it",
    "repeated_ms": "an answer for one user after that, the median",
}


def measure(options: RecommendOptions) -> Section:
    """Returns the timings of one user and of many."""
    asked = "nano" if options.checkpoint is None else resolve(options.checkpoint)
    rows, notes = measure_each(measure_case, options, [asked])
    return Section("recommend", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: RecommendOptions, asked: Path | str) -> Measured:
    """Measures in this process, which has compiled nothing yet."""
    model = _opened(options)
    recommender, dataset = Recommender(model), model.dataset
    users = np.flatnonzero(np.diff(dataset.offsets) > 0)
    number = min(options.users, len(users))
    users = users[np.linspace(0, len(users) - 1, number).astype(int)]
    many = [_history(dataset, int(user)) for user in users]
    num_items = dataset.info.num_items
    case = {"items": num_items, "k": min(options.k, num_items)}
    ask = _asking(recommender, options)

    began, cpu = time.perf_counter(), time.process_time()
    ask(many[:1])
    timing = Timing((time.perf_counter() - began,), (time.process_time() - cpu,))
    kind = jax.devices()[0].device_kind
    first = Row(case, OURS, FIRST, 1, timing, "wall", kind)
    turn = iter(range(2**31))

    def one() -> None:
        at = next(turn) % len(many)
        ask(many[at : at + 1])

    # Histories of other lengths may have shapes of their own.
    for history in many:
        ask([history])
    ask(many)
    rows = race(case, 1, [Contender(OURS, AGAIN, one)], options)
    rows += race(case, len(many), [Contender(OURS, MANY, lambda: ask(many))], options)
    rows = [
        dataclasses.replace(row, facts={"users/s": row.units / row.seconds.median})
        for row in [first, *rows]
    ]
    trained = "random weights" if options.checkpoint is None else "trained"
    note = (
        f"{asked}: {trained}, {dataset.path}; items of a history "
        "are left out, and every answer is a DataFrame; us each: of a user."
    )
    return rows, [note]


def _asking(
    recommender: Recommender, options: RecommendOptions
) -> Callable[[list[History]], None]:
    def ask(histories: list[History]) -> None:
        for _ in recommender.search(histories, options.k, filter_seen=True):
            pass

    return ask


def _opened(options: RecommendOptions) -> Opened:
    if options.checkpoint is not None:
        return open_checkpoint(
            options.checkpoint, options.data_dir, None, placement("none")
        )
    dataset = opened(options.data_dir)
    config = resolved(TrainConfig(seed=options.seed, data_dir=dataset.path))
    sizes = model_config(config, dataset, LLAMA_PRESETS["nano"])
    model = initial_model(sizes, dataset, None, run_keys(options.seed)[0])
    return Opened(dataset.path, 0, config, dataset, model)


def _history(dataset: Dataset, row: int) -> History:
    span = slice(dataset.offsets[row], dataset.offsets[row + 1])
    times = None if dataset.times is None else dataset.times[span]
    return History(row, dataset.slots[span], times)


def _keys(rows: Sequence[Row]) -> dict[str, float | None]:
    first, again, many = (find(rows, OURS, work) for work in (FIRST, AGAIN, MANY))
    assert first is not None and again is not None and many is not None
    return {
        "users_per_second": many.facts["users/s"],
        "first_ms": 1000 * first.seconds.median,
        "repeated_ms": 1000 * again.seconds.median,
    }


def _curve(rows: Sequence[Row]) -> Curve:
    """Milliseconds of a call against the users in it."""
    points = [
        (float(row.units), 1000 * row.seconds.median)
        for row in rows
        if row.work != FIRST
    ]
    return Curve("Recommendations", "users in a call", "ms", {OURS: points})
