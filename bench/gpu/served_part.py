"""The server under load, beside the same model called without a server."""

import importlib.util
import json
from collections.abc import Iterator

import numpy as np

from bench.bench_datasets import generated
from bench.clock import Spread, alternate
from bench.gpu.gpu_cases import ServedCase
from bench.gpu.part_context import GpuRow, LeftOutError, PartContext
from bench.load_generator import closed_loop
from bench.served_process import random_run, server
from eqids.data import Dataset
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import open_checkpoint
from sharding import placement

_NEEDED = "starlette", "uvicorn", "msgspec", "prometheus_client"
_USERS, _K, _MAX_BATCH = 64, 10, 64
_CACHE_MB = "4096"
_SECONDS = 5.0


def measure(case: ServedCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields the bare model, then each number of clients, without and with a cache.

    The cache keeps the keys and values of what was read before. Histories grow by one
    event from request to request, so that it always holds all but the last one.

    Raises:
        LeftOutError: a package of eqids[serve] is missing.
    """
    missing = [one for one in _NEEDED if importlib.util.find_spec(one) is None]
    if missing:
        raise LeftOutError(f"{', '.join(missing)} is missing: pip install eqids[serve]")
    dataset = generated(context.folder, case.num_items, context.seed)
    data = str(dataset.path.absolute())
    run = random_run(context.folder, case.llama_size, dataset.path, context.seed)
    opened = open_checkpoint(run, dataset.path, None, placement("none"))
    histories = _growing(dataset)
    yield from _bare(ServedModel(opened, max_batch=_MAX_BATCH), histories, context)
    del opened
    bodies, flags = _bodies(dataset, histories), ["--checkpoint", str(run.absolute())]
    flags += ["--data_dir", data, "--timeout", "60", "--no_access_log"]
    flags += ["--max_batch", str(_MAX_BATCH), "--answer_cache_mb", "0", "--cache_mb"]
    for name, size in (("nothing kept", "0"), ("prefixes kept", _CACHE_MB)):
        with server([*flags, size]) as process:
            closed_loop(process.target, bodies, max(case.clients), case.seconds)
            for clients in case.clients:
                found = closed_loop(process.target, bodies, clients, case.seconds)
                numbers = {
                    "requests/s": found.rate,
                    "median ms": 1e3 * found.quantile(0.5),
                    "p99 ms": 1e3 * found.quantile(0.99),
                    "failed": found.failed,
                }
                yield GpuRow(f"{clients} clients, {name}, {case}", numbers)


def _growing(dataset: Dataset) -> list[np.ndarray]:
    """The slots of users' histories, each of which grows from its half to its end."""
    users = np.flatnonzero(np.diff(dataset.offsets) > 1)[:_USERS]
    whole = [dataset.history(int(user)) for user in users]
    return [x[:n] for x in whole for n in range((len(x) + 1) // 2, len(x) + 1)]


def _bare(
    model: ServedModel, histories: list[np.ndarray], context: PartContext
) -> Iterator[GpuRow]:
    asks = [Query(History(0, slots, None), _K) for slots in histories]
    model.compile()
    turns = {"one history a call": 1, f"{_MAX_BATCH} histories a call": _MAX_BATCH}
    for work, number in turns.items():
        run = _Calls(model, asks, number)
        seconds = context.budget(0.1, _SECONDS)
        spread = Spread.of(alternate({work: run}, 20, seconds)[work].wall)
        numbers = {
            "requests/s": number / spread.median,
            "median ms": 1e3 * spread.median,
        }
        yield GpuRow(f"no server, {work}", numbers)


class _Calls:
    """Calls of the model, each with the next queries."""

    def __init__(self, model: ServedModel, asks: list[Query], number: int):
        self._model, self._asks, self._number, self._at = model, asks, number, 0

    def __call__(self) -> None:
        numbers = range(self._at, self._at + self._number)
        self._model.answer([self._asks[n % len(self._asks)] for n in numbers])
        self._at += self._number


def _bodies(dataset: Dataset, histories: list[np.ndarray]) -> list[bytes]:
    ids = dataset.items().set_index("slot")["item"]
    return [
        json.dumps({"history": ids.loc[slots].tolist(), "k": _K}).encode()
        for slots in histories
    ]
