"""Times recommendations: users a second in a batch, and the wait of one user."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from bench.bench_datasets import opened
from bench.clock import Timing, now
from bench.contender import Contender, Measured, measure_each, race
from bench.onnx_speed import ONNX, installed, recommending_graph
from bench.record import OURS, Curve, ResultRow, Section, find
from bench.search_options import RecommendOptions
from eqids.checkpoints import resolve
from eqids.config import LLAMA_PRESETS, TrainConfig
from eqids.data import Dataset
from eqids.data.facts import facts_of
from eqids.inference.open import Opened, open_checkpoint
from eqids.inference.recommender import History, Recommender
from eqids.runs.new_model import initial_model, model_config
from eqids.runs.recipe import resolved
from eqids.runs.run_keys import run_keys
from sharding import placement

FIRST, AGAIN, MANY = "one user, the first time", "one user", "many users"

MEANINGS = {
    "users_per_second": "users a second, many in a call",
    "first_ms": "the first answer of a process for one user, compilation included",
    "repeated_ms": "an answer for one user after that, the median",
}


def measure(options: RecommendOptions) -> Section:
    """Returns the timings of one user and of many."""
    model = "nano" if options.checkpoint is None else resolve(options.checkpoint)
    rows, notes = measure_each(measure_case, options, [model])
    return Section("recommend", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: RecommendOptions, name: Path | str) -> Measured:
    """Measures in this process, which has compiled nothing before."""
    model = _opened(options)
    recommender, dataset = Recommender(model), model.dataset
    users = np.flatnonzero(np.diff(dataset.offsets) > 0)
    number = min(options.users, len(users))
    users = users[np.linspace(0, len(users) - 1, number).astype(int)]
    many = [_history(dataset, int(user)) for user in users]
    num_items = dataset.info.num_items
    case = {"items": num_items, "k": min(options.k, num_items)}
    recommend = _recommending(recommender, options)

    wall, cpu = now()
    recommend(many[:1])
    wall_end, cpu_end = now()
    timing = Timing((wall_end - wall,), (cpu_end - cpu,))
    kind = jax.devices()[0].device_kind
    first = ResultRow(case, OURS, FIRST, 1, timing, "wall", kind)
    # Compiles for every length of histories.
    for history in many:
        recommend([history])
    recommend(many)
    again = [Contender(OURS, AGAIN, _one_by_one(recommend, many))]
    all_users = [Contender(OURS, MANY, lambda: recommend(many))]
    notes = [f"{ONNX} is not installed: pip install 'eqids[onnx]'"]
    if installed():
        with TemporaryDirectory() as folder:
            by_graph = recommending_graph(model, options, Path(folder))
        one = _one_by_one(by_graph, many)
        again.append(Contender(ONNX, AGAIN, one, device="cpu"))
        all_users.append(Contender(ONNX, MANY, lambda: by_graph(many), device="cpu"))
        notes = [f"{ONNX}: the exported graph, on the CPU, without titles."]
    rows = [first, *race(case, 1, again, options)]
    rows += race(case, len(many), all_users, options)
    trained = "random weights" if options.checkpoint is None else "trained"
    note = (
        f"{name}: {trained}, {dataset.path}; items of a history "
        "are left out, and every answer is a DataFrame; us each: microseconds a user."
    )
    return [_with_rate(row) for row in rows], [note, *notes]


def _one_by_one(
    recommend: Callable[[list[History]], None], many: list[History]
) -> Callable[[], None]:
    """Returns a function that answers another user at every call."""
    turns = itertools.cycle(many)
    return lambda: recommend([next(turns)])


def _with_rate(row: ResultRow) -> ResultRow:
    facts = {"users/s": row.units / row.seconds.median}
    return dataclasses.replace(row, facts=facts)


def _recommending(
    recommender: Recommender, options: RecommendOptions
) -> Callable[[list[History]], None]:
    def recommend(histories: list[History]) -> None:
        for _ in recommender.search(histories, options.k, filter_seen=True):
            pass

    return recommend


def _opened(options: RecommendOptions) -> Opened:
    if options.checkpoint is not None:
        return open_checkpoint(
            options.checkpoint, options.data_dir, None, placement("none")
        )
    dataset = opened(options.data_dir)
    flags = TrainConfig(llama_size="nano", seed=options.seed, data_dir=dataset.path)
    config = resolved(flags, facts_of(dataset))
    sizes = model_config(config, dataset, LLAMA_PRESETS["nano"])
    model = initial_model(sizes, dataset, None, run_keys(options.seed)[0])
    return Opened(dataset.path, 0, config, dataset, model)


def _history(dataset: Dataset, row: int) -> History:
    span = slice(dataset.offsets[row], dataset.offsets[row + 1])
    times = None if dataset.times is None else dataset.times[span]
    return History(row, dataset.slots[span], times)


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    first, again, many = (find(rows, OURS, work) for work in (FIRST, AGAIN, MANY))
    assert first is not None and again is not None and many is not None
    return {
        "users_per_second": many.facts["users/s"],
        "first_ms": 1000 * first.seconds.median,
        "repeated_ms": 1000 * again.seconds.median,
    }


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Returns milliseconds of a call against the users in it."""
    series = dict[str, list[tuple[float, float]]]()
    for row in rows:
        if row.work != FIRST:
            point = float(row.units), 1000 * row.seconds.median
            series.setdefault(row.name, []).append(point)
    return Curve("Recommendations", "users in a call", "ms", series)
