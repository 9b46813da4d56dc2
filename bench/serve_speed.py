"""Times the server under load, beside the same model called in full batches."""

import dataclasses
import gc
import json
import tempfile
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from bench.bench_datasets import generated, opened
from bench.clock import Timing
from bench.contender import Contender, Measured, measure_each, race
from bench.load_generator import HttpTarget, LoadResult, closed_loop, open_loop
from bench.record import OURS, CaseNumbers, Curve, ResultRow, Section
from bench.serve_appends import KEPT, WHOLE, appends
from bench.serve_options import ServeOptions
from bench.served_process import ServerProcess, random_run, server
from eqids.checkpoints import resolve
from eqids.data import Dataset
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query
from eqids.inference.histories import History
from eqids.inference.open import open_checkpoint
from sharding import placement

FULL, ONE = "full batches, no server", "one user, no server"
CLOSED, OPEN = "{} clients", "at 70% of the largest load"
REPEATED, RELOAD = "repeated request", "reloads"
DENIED, ALLOWED, NAMED = "{}, deny lists", "{}, allow lists", "{}, a filter by name"
TURNS = 4
"""Parts of the loads that are compared with each other."""
LISTED = 10_000
"""Items of a deny or allow list, at most half of the catalog."""
FILTER = "listed"
LOAD = 0.7
"""Share of the largest load at which the wait is measured."""

MEANINGS = {
    "throughput_ratio": "most requests a second over users a second in full batches",
    "p99_ratio": "99th percentile at 70% of that load over the time of a full batch",
    "overhead_ms": "median of one client's request less the model's time for it",
    "repeated_ratio": "one client's request over the same request again, from a cache",
    "append_ratio": "one event after 200 that are read whole, over the rest kept",
    "deny_ratio": "requests a second with deny lists over those without",
    "allow_ratio": "requests a second with allow lists over those without",
    "filter_ratio": "requests a second with a filter of --filters over those without",
    "failed_in_reload": "requests that failed while a checkpoint was loaded anew",
    "growth_mb": "growth of the server's memory over all loads after the first",
}


def measure(options: ServeOptions) -> Section:
    """Returns the timings of the server and of the bare model."""
    name = options.llama_size
    if options.checkpoint is not None:
        name = str(resolve(options.checkpoint))  # type: ignore[assignment]
    rows, notes = measure_each(measure_case, options, [name])
    return Section("serve", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def measure_case(options: ServeOptions, name: str) -> Measured:
    """Measures in this process and in a server that it starts."""
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        run, data_dir = options.checkpoint, options.data_dir
        if options.items is not None:
            data_dir = generated(Path(folder), options.items, options.seed).path
        if run is None:
            data = opened(data_dir).path
            run = random_run(Path(folder), options.llama_size, data, options.seed)
        model = open_checkpoint(run, data_dir, None, placement("none"))
        bare = ServedModel(model, max_batch=options.max_batch)
        asks = _queries(model.dataset, options)
        case = {"items": model.dataset.info.num_items, "k": options.k}
        rows = _bare(case, bare, asks, options) + appends(case, model, options)
        load = _Load(case, model.dataset, asks, options, run.absolute())
        # The pauses of this process would count as the server's.
        gc.collect()
        gc.freeze()
        filters = Path(folder) / "filters.json"
        filters.write_text(json.dumps({FILTER: load.listed()}))
        caches = ["--answer_cache_mb", "0", "--cache_mb", "0"]
        flags = [*load.flags, *caches, "--filters", str(filters)]
        with server(flags) as process:
            rows += load.uncached(process)
        with server(load.flags) as process:
            rows += load.cached(process.target)
    lengths = [len(ask.history.slots) for ask in asks]
    note = (
        f"{name}: {model.dataset.path}, histories of {np.mean(lengths):.0f} items on "
        "average in every request; server and load share the cores, and the load is "
        "made by one Python process; latency in the table is the median."
    )
    return rows, [note]


def _queries(dataset: Dataset, options: ServeOptions) -> list[Query]:
    """The histories of users that are spread over the dataset."""
    users = np.flatnonzero(np.diff(dataset.offsets) > 0)
    number = min(options.users, len(users))
    found = []
    for row in users[np.linspace(0, len(users) - 1, number).astype(int)]:
        span = slice(dataset.offsets[row], dataset.offsets[row + 1])
        times = None if dataset.times is None else dataset.times[span]
        history = History(int(row), dataset.slots[span], times)
        found.append(Query(history, min(options.k, dataset.info.num_items)))
    return found


def _bare(
    case: CaseNumbers, model: ServedModel, asks: list[Query], options: ServeOptions
) -> list[ResultRow]:
    some = asks[:: max(1, len(asks) // 64)]

    def one() -> None:
        for ask in some:
            model.answer([ask])

    def full() -> None:
        for first in range(0, len(asks), options.max_batch):
            model.answer(asks[first : first + options.max_batch])

    model.compile()
    rows = race(case, len(some), [Contender(OURS, ONE, one)], options)
    rows += race(case, len(asks), [Contender(OURS, FULL, full)], options)
    return [_with_rate(row, options.max_batch) for row in rows]


def _with_rate(row: ResultRow, batch: int) -> ResultRow:
    facts = {"req/s": 1 / row.each, "batch ms": 1000 * row.each * batch}
    return dataclasses.replace(row, facts=facts)


@dataclasses.dataclass(frozen=True)
class _Load:
    """The loads of one case."""

    case: CaseNumbers
    dataset: Dataset
    asks: Sequence[Query]
    options: ServeOptions
    run: Path

    @property
    def flags(self) -> list[str]:
        """Flags of the server."""
        data = str(self.dataset.path.absolute())
        return ["--checkpoint", str(self.run), "--data_dir", data, "--timeout", "60",
                "--max_batch", str(self.options.max_batch), "--no_access_log"
                ]  # fmt: skip

    def uncached(self, process: ServerProcess) -> list[ResultRow]:
        """Loads of a server that computes every answer."""
        target, bodies, seconds = process.target, self._bodies(), self._seconds
        closed_loop(target, bodies, max(self.options.clients), seconds)
        before, rows = process.resident_bytes(), list[ResultRow]()
        *fewer, most = self.options.clients
        for clients in fewer:
            found = closed_loop(target, bodies, clients, seconds)
            rows.append(self._row(CLOSED.format(clients), found))
        work, listed = CLOSED.format(most), self.listed()
        loads = {
            work: bodies,
            DENIED.format(work): self._bodies(deny=listed),
            ALLOWED.format(work): self._bodies(allow=listed),
            NAMED.format(work): self._bodies(filter=FILTER),
        }
        in_turns = self._in_turns(target, loads, most)
        rows += [self._row(*one) for one in in_turns.items()]
        best = max(row.facts["req/s"] for row in rows if row.work.endswith("clients"))
        seed = self.options.seed
        found = open_loop(target, bodies, LOAD * best, seconds, seed)
        rows.append(self._row(OPEN, found))
        rows.append(self._row(RELOAD, self._reloading(target, bodies)))
        after = process.resident_bytes()
        if before is not None and after is not None:
            facts = {**rows[-1].facts, "growth MB": (after - before) / 1e6}
            rows[-1] = dataclasses.replace(rows[-1], facts=facts)
        return rows

    def _in_turns(
        self, target: HttpTarget, loads: Mapping[str, Sequence[bytes]], clients: int
    ) -> dict[str, LoadResult]:
        """Sends each load in parts: a machine is not as fast all the time."""
        parts: dict[str, list[LoadResult]] = {work: [] for work in loads}
        for _ in range(TURNS):
            for work, bodies in loads.items():
                seconds = self._seconds / TURNS
                parts[work].append(closed_loop(target, bodies, clients, seconds))
        return {work: LoadResult.of_parts(found) for work, found in parts.items()}

    def cached(self, target: HttpTarget) -> list[ResultRow]:
        """One request again and again, to a server that keeps answers."""
        body = self._bodies()[:1]
        closed_loop(target, body, 1, 0.1)
        return [self._row(REPEATED, closed_loop(target, body, 1, self._seconds))]

    @property
    def _seconds(self) -> float:
        return self.options.load_seconds

    def _reloading(self, target: HttpTarget, bodies: Sequence[bytes]) -> LoadResult:
        """Reloads the checkpoint for as long as a load lasts, one after the other."""
        over, failed = threading.Event(), list[int]()

        def reload() -> None:
            while not over.is_set():
                failed.append(
                    _post(target, "/v1/reload", {"checkpoint": str(self.run)})
                )

        thread = threading.Thread(target=reload)
        thread.start()
        found = closed_loop(target, bodies, 16, max(5.0, self._seconds))
        over.set()
        thread.join()
        return dataclasses.replace(found, failed=found.failed + sum(failed))

    def listed(self) -> list[object]:
        """Items of deny and allow lists, in no order."""
        items = self.dataset.items()["item"].tolist()
        number = min(LISTED, len(items) // 2)
        order = np.random.default_rng(self.options.seed).permutation(len(items))
        return [items[at] for at in order[:number].tolist()]

    def _bodies(self, **more: object) -> list[bytes]:
        ids = self.dataset.items().set_index("slot")["item"]
        bodies = []
        for ask in self.asks:
            items = ids.loc[ask.history.slots].tolist()
            history: list[object] = items
            if ask.history.times is not None:
                times = ask.history.times.tolist()
                pairs = zip(items, times, strict=True)
                history = [{"item": item, "time": time} for item, time in pairs]
            body = {"history": history, "k": ask.k, **more}
            bodies.append(json.dumps(body).encode())
        return bodies

    def _row(self, work: str, found: LoadResult) -> ResultRow:
        times = tuple(found.latencies)
        facts = {
            "req/s": found.rate,
            "p99 ms": 1000 * found.quantile(0.99),
            "failed": float(found.failed),
        }
        kind = jax.devices()[0].device_kind
        timing = Timing(times, times)
        return ResultRow(self.case, OURS, work, 1, timing, "wall", kind, facts=facts)


def _post(target: HttpTarget, path: str, body: Mapping[str, str]) -> int:
    """Returns 1 if a request fails, and else 0."""
    url = f"http://{target.host}:{target.port}{path}"
    try:
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=600):
            return 0
    except OSError:
        return 1


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    by_work = {row.work: row for row in rows}
    full, one, at_load = by_work[FULL], by_work[ONE], by_work[OPEN]
    loads = [row for row in rows if row.work.endswith("clients")]
    best, first = max(row.facts["req/s"] for row in loads), loads[0]
    most, listed = loads[-1], (DENIED, ALLOWED, NAMED)
    deny, allow, named = (
        by_work[work.format(most.work)].facts["req/s"] / most.facts["req/s"]
        for work in listed
    )
    reloads = by_work[RELOAD]
    alone = first.seconds.median if first.work == CLOSED.format(1) else None
    return {
        "throughput_ratio": best / full.facts["req/s"],
        "p99_ratio": at_load.facts["p99 ms"] / full.facts["batch ms"],
        "overhead_ms": alone and 1000 * (alone - one.each),
        "repeated_ratio": alone and alone / by_work[REPEATED].seconds.median,
        "append_ratio": _ratio(by_work, WHOLE.format(200), KEPT.format(200)),
        "deny_ratio": deny,
        "allow_ratio": allow,
        "filter_ratio": named,
        "failed_in_reload": reloads.facts["failed"],
        "growth_mb": reloads.facts.get("growth MB"),
    }


def _ratio(rows: Mapping[str, ResultRow], over: str, under: str) -> float:
    return rows[over].seconds.median / rows[under].seconds.median


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Returns the 99th percentile against the load of clients."""
    points = [
        (row.facts["req/s"], row.facts["p99 ms"])
        for row in rows
        if row.work.endswith("clients")
    ]
    return Curve("Serving", "requests a second", "p99, ms", {OURS: points})
