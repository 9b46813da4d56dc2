"""One thread owns the device and answers what is queued, in batches."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from eqids.inference.engine.answer_cache import AnswerCache, answer_key
from eqids.inference.engine.batching import BatchPlan
from eqids.inference.engine.compilations import num_compilations
from eqids.inference.engine.prepared_query import PreparedQuery
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import (
    DeadlinePassed,
    EngineClosed,
    EngineCounters,
    EngineOptions,
    Query,
    QueueFull,
    Recommendations,
)

Result = TypeVar("Result")
Work = TypeVar("Work", "_Asked", "_Call")


@dataclass(frozen=True, eq=False)
class _Call:
    """A function that waits, and when it is too late."""

    function: Callable[[], Any]
    deadline: float | None
    future: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A query that waits, the model that answers it, and when it is too late."""

    served: ServedModel
    query: PreparedQuery
    key: bytes
    deadline: float | None
    future: Future[Any] = field(default_factory=Future)


class InferenceEngine:
    """Takes queries from any thread; one thread of its own computes the answers.

    When the device is free, the thread takes all that is queued: there is no timer.
    """

    def __init__(self, served: ServedModel, options: EngineOptions):
        """Starts the thread.

        Args:
            served: the model, compiled.
            options: the limits.
        """
        self._served, self._max_queue = served, options.max_queue
        self._cache = AnswerCache(options.answer_cache_mb * 2**20)
        self._caches = options.answer_cache_mb > 0
        self._changed = threading.Condition()
        self._queue: list[_Asked | _Call] = []
        self._waiting, self._closed, self._drains = 0, False, True
        self._batches: Counter[int] = Counter()
        self._hits, self._misses, self._seconds = 0, 0, 0.0
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def served(self) -> ServedModel:
        """The current model. Read it once for a request, and submit with it."""
        return self._served

    def submit(
        self, served: ServedModel, query: Query, deadline: float | None = None
    ) -> "Future[Recommendations]":
        """Queues a query; a cached answer comes at once.

        `cancel` of the future removes a query that is not yet in a batch.

        Args:
            served: the model that answers; the query's slots are of its catalog.
            query: the query.
            deadline: by `time.monotonic`; the future gets `DeadlinePassed` if the query
                is not in a batch by then.

        Raises:
            QueueFull: too many wait.
            EngineClosed: the engine was closed.
            UserError: the query is invalid, see `prepare_query`.
        """
        prepared = served.prepare(query)
        key = answer_key(served.serial, prepared) if self._caches else b""
        asked = _Asked(served, prepared, key, deadline)
        if self._caches:
            answer = self._cache.get(key)
            with self._changed:
                self._hits += answer is not None
                self._misses += answer is None
            if answer is not None:
                asked.future.set_result(answer)
                return asked.future
        self._add(asked)
        return asked.future

    def submit_call(
        self, function: Callable[[], Result], deadline: float | None = None
    ) -> "Future[Result]":
        """Queues a function that uses the device; the thread calls it.

        Args:
            function: such as one that calls `ServedModel.log_probs`.
            deadline: as for `submit`.

        Raises:
            QueueFull: too many wait.
            EngineClosed: the engine was closed.
        """
        call = _Call(function, deadline)
        self._add(call)
        return call.future

    def replace(self, served: ServedModel) -> None:
        """Makes another model the current one.

        Queries that were submitted with the old one are answered by the old one.

        Args:
            served: the model, compiled.
        """
        self._served = served
        self._cache.clear()

    def counters(self) -> EngineCounters:
        """Returns what the engine did so far."""
        history = self._served.history_cache
        with self._changed:
            hits, misses = {"answer": self._hits}, {"answer": self._misses}
            if history is not None:
                hits["history"], misses["history"] = history.hits, history.misses
            return EngineCounters(
                queue_depth=self._waiting,
                batches=dict(self._batches),
                device_seconds=self._seconds,
                cache_hits=hits,
                cache_misses=misses,
                compilations_after_ready=num_compilations(self._thread),
            )

    def close(self, drain: bool = True) -> None:
        """Stops taking queries, and returns when the thread has ended.

        Args:
            drain: answer what waits; otherwise its futures get `EngineClosed`.
        """
        with self._changed:
            self._closed, self._drains = True, drain
            self._changed.notify()
        self._thread.join()

    def _add(self, work: _Asked | _Call) -> None:
        with self._changed:
            if self._closed:
                raise EngineClosed("the engine was closed")
            if self._waiting >= self._max_queue:
                raise QueueFull(f"{self._waiting} queries wait")
            self._waiting += 1
            if len(self._queue) > 2 * self._max_queue:
                # Of those who gave up, no more than that are kept.
                self._queue = [x for x in self._queue if not x.future.cancelled()]
            self._queue.append(work)
            self._changed.notify()
        work.future.add_done_callback(self._left)

    def _left(self, future: Future[Any]) -> None:
        """A query that is cancelled leaves its place in the queue to another."""
        if future.cancelled():
            with self._changed:
                self._waiting -= 1

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                taken, self._queue = self._queue, []
            if not taken:
                return
            try:
                for step in self._steps(taken):
                    step()
            except Exception as error:  # not an error of one batch
                for one in taken:
                    future = one.future
                    if not future.done() and (future.running() or self._begins(one)):
                        future.set_exception(error)

    def _steps(self, taken: Sequence[_Asked | _Call]) -> list[Callable[[], None]]:
        """Divides what was taken into batches and calls; what came first is first.

        Equal queries have one row.
        """
        steps: list[tuple[int, Callable[[], None]]] = []
        by_model: dict[ServedModel, dict[bytes | int, list[tuple[int, _Asked]]]] = {}
        for number, one in enumerate(taken):
            if isinstance(one, _Asked):
                alike = by_model.setdefault(one.served, {})
                alike.setdefault(one.key or number, []).append((number, one))
            else:
                steps.append((number, partial(self._call, one)))
        for served, groups in by_model.items():
            equal = list(groups.values())
            for batch in served.plan([group[0][1].query for group in equal]):
                members = [one for i in batch.members for one in equal[i]]
                step = partial(self._answer, batch, [one for _, one in members])
                steps.append((min(number for number, _ in members), step))
        return [step for _, step in sorted(steps, key=lambda step: step[0])]

    def _call(self, call: _Call) -> None:
        self._finish([call], lambda _: [call.function()])

    def _answer(self, batch: BatchPlan, asked: Sequence[_Asked]) -> None:
        def answers(asked: Sequence[_Asked]) -> Sequence[Recommendations]:
            served = asked[0].served
            keys = [one.key or number for number, one in enumerate(asked)]
            rows = dict(zip(keys, (one.query for one in asked), strict=True))
            found = dict(zip(rows, served.run(batch, [*rows.values()]), strict=True))
            if served is self._served and self._caches:
                for one in asked:
                    self._cache.put(one.key, found[one.key])
            with self._changed:
                self._batches[len(asked)] += 1
            return [found[key] for key in keys]

        self._finish(asked, answers)

    def _finish(
        self, works: Sequence[Work], compute: Callable[[Sequence[Work]], Sequence[Any]]
    ) -> None:
        """Computes what is not cancelled or late, and sets the futures."""
        works = [one for one in works if self._begins(one)]
        if not works:
            return
        start = time.perf_counter()
        try:
            for one, result in zip(works, compute(works), strict=True):
                one.future.set_result(result)
        except Exception as error:
            for one in works:
                one.future.set_exception(error)
        with self._changed:
            self._seconds += time.perf_counter() - start

    def _begins(self, one: _Asked | _Call) -> bool:
        """Returns whether to compute it; its future knows of every other case."""
        if not one.future.set_running_or_notify_cancel():
            return False
        with self._changed:
            self._waiting -= 1
            gives_up = self._closed and not self._drains
        if gives_up:
            one.future.set_exception(EngineClosed("the engine was closed"))
        elif one.deadline is not None and time.monotonic() > one.deadline:
            one.future.set_exception(DeadlinePassed("the deadline passed in the queue"))
        return not one.future.done()
