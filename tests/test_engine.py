"""The engine's thread: batches, limits, deadlines, models that replace one another."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from served import NOW, opened_model
from test_engine_answers import queries

from eqids.config import UserError
from eqids.data import Dataset
from eqids.inference.engine.answer_cache import AnswerCache
from eqids.inference.engine.batching import BatchPlan
from eqids.inference.engine.inference_engine import InferenceEngine
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import (
    DeadlinePassed,
    EngineClosed,
    EngineOptions,
    Query,
    QueueFull,
    Recommendations,
    SlotFilter,
)
from eqids.inference.histories import History

WAIT = 20
"""Seconds after which a test gives up."""


@pytest.fixture(scope="module")
def served(dataset: Dataset) -> ServedModel:
    model = ServedModel(opened_model(dataset, seq_len=20), max_batch=4, max_k=20)
    reports: list[tuple[int, int]] = []
    model.compile(lambda *numbers: reports.append(numbers))
    # 2 neighbours; for 1 and 4 rows: 2 lengths, scores, 2 searches.
    assert reports == [(n, 12) for n in range(1, 13)]
    return model


@pytest.fixture(scope="module")
def next_served(dataset: Dataset, served: ServedModel) -> ServedModel:
    """Another model of the same sizes; nothing is compiled for it."""
    opened = opened_model(dataset, seq_len=20, seed=1)
    model = ServedModel(opened, max_batch=4, max_k=20, programs_of=served)
    before = served.num_programs
    model.compile()
    assert model.num_programs == served.num_programs == before == 12
    return model


@contextmanager
def engine(served: ServedModel, **options: int) -> Iterator[InferenceEngine]:
    made = InferenceEngine(served, EngineOptions(**options))
    try:
        yield made
    finally:
        made.close()


@contextmanager
def busy(engine: InferenceEngine) -> Iterator[None]:
    """Keeps the thread from taking what is queued meanwhile."""
    begun, gate = threading.Event(), threading.Event()

    def hold() -> bool:
        begun.set()
        return gate.wait(WAIT)

    held = engine.submit_call(hold)
    try:
        assert begun.wait(WAIT)
        yield
    finally:
        gate.set()
    assert held.result(WAIT)


def query(dataset: Dataset, user: int, k: int = 5, **more: Any) -> Query:
    return Query(History(user, dataset.history(user)[:9], None, NOW), k, **more)


def same(found: Recommendations, expected: Recommendations) -> bool:
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    return np.array_equal(found.slots, expected.slots)


def test_what_waits_is_answered_together(dataset: Dataset, served: ServedModel) -> None:
    given = [query(dataset, user) for user in range(6)]
    with engine(served, answer_cache_mb=0) as made:
        with busy(made):
            futures = [made.submit(served, one) for one in given]
            assert made.counters().queue_depth == 6
        answers = [future.result(WAIT) for future in futures]
        assert all(map(same, answers, served.answer(given)))
        found = made.counters()
    assert found.queue_depth == 0 and sum(n * m for n, m in found.batches.items()) == 6
    assert found.batches[4] == 1
    assert 0 < found.device_seconds < WAIT
    assert found.cache_hits == found.cache_misses == {"answer": 0}
    assert found.compilations_after_ready == 0


def test_equal_queries_that_wait_have_one_row(
    dataset: Dataset, served: ServedModel
) -> None:
    """Six of them are more than a batch has rows; the first gives up."""
    with engine(served) as made:
        with busy(made):
            futures = [made.submit(served, query(dataset, 0)) for _ in range(6)]
            assert futures[0].cancel()
        answers = [future.result(WAIT) for future in futures[1:]]
        expected = served.answer([query(dataset, 0)])[0]
        assert all(same(answer, expected) for answer in answers)
        assert made.counters().batches == {5: 1}


def test_a_full_queue_a_deadline_and_a_cancelled_query(
    dataset: Dataset, served: ServedModel
) -> None:
    one = query(dataset, 0)
    with engine(served, max_queue=3) as made:
        with busy(made):
            late = made.submit(served, one, time.monotonic() - 1)
            gone = made.submit(served, one)
            kept = made.submit(served, one, time.monotonic() + WAIT)
            with pytest.raises(QueueFull, match="3 queries wait"):
                made.submit(served, one)
            with pytest.raises(QueueFull):
                made.submit_call(lambda: 1)
            assert gone.cancel()
            # It gives its place to another, and so do any number of them.
            for _ in range(20):
                assert made.counters().queue_depth == 2
                assert made.submit(served, one).cancel()
            assert len(made._queue) <= 8
        assert same(kept.result(WAIT), served.answer([one])[0])
        with pytest.raises(DeadlinePassed):
            late.result(WAIT)
        with pytest.raises(CancelledError):
            gone.result(WAIT)
        assert made.counters().batches == {1: 1}
        assert made.submit_call(lambda: threading.current_thread().name).result(WAIT)


def test_an_error_is_of_its_batch_alone(
    dataset: Dataset, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken = query(dataset, 0, k=5), query(dataset, 0, k=20)
    runs = served.run

    def run(batch: BatchPlan, queries: Any) -> Any:
        if batch.k > 16:
            raise ArithmeticError("of the batch")
        return runs(batch, queries)

    monkeypatch.setattr(served, "run", run)

    def fails() -> None:
        raise ArithmeticError("of the call")

    with engine(served, answer_cache_mb=0) as made:
        with busy(made):
            futures: list[Future[Any]] = [made.submit(served, broken)]
            futures += [made.submit(served, good), made.submit_call(fails)]
        with pytest.raises(ArithmeticError, match="of the batch"):
            futures[0].result(WAIT)
        assert same(futures[1].result(WAIT), served.answer([good])[0])
        with pytest.raises(ArithmeticError, match="of the call"):
            futures[2].result(WAIT)
        for kind, said in (
            (query(dataset, 0, k=0), "k is 0"),
            (query(dataset, 0, allow=SlotFilter(np.ones((2, 2), bool))), "a filter is"),
        ):
            with pytest.raises(UserError, match=said):
                made.submit(served, kind)
        assert same(made.submit(served, good).result(WAIT), served.answer([good])[0])


def test_queries_are_answered_by_their_model(
    dataset: Dataset, served: ServedModel, next_served: ServedModel
) -> None:
    given = [query(dataset, user) for user in range(5)]
    old, new = served.answer(given), next_served.answer(given)
    assert not all(
        np.array_equal(a.slots, b.slots) for a, b in zip(old, new, strict=True)
    )
    with engine(served) as made:
        with busy(made):
            first = [made.submit(made.served, one) for one in given]
            made.replace(next_served)
            second = [made.submit(made.served, one) for one in given]
            third = [made.submit(served, one) for one in given]
        for futures, expected in ((first, old), (second, new), (third, old)):
            assert all(map(same, (f.result(WAIT) for f in futures), expected))
        again = [made.submit(made.served, one).result(WAIT) for one in given]
        assert all(one.cached for one in again) and all(map(same, again, new))
        assert made.counters().compilations_after_ready == 0


@pytest.mark.parametrize("drain", [True, False])
def test_a_closed_engine_answers_what_it_accepted_or_says_so(
    drain: bool, dataset: Dataset, served: ServedModel
) -> None:
    one = query(dataset, 0)
    made = InferenceEngine(served, EngineOptions())
    closer = threading.Thread(target=made.close, args=(drain,))
    with busy(made):
        future = made.submit(served, one)
        closer.start()
        with pytest.raises(EngineClosed):
            while True:  # until the other thread has closed it
                made.submit_call(lambda: None)
    closer.join(WAIT)
    if drain:
        assert same(future.result(WAIT), served.answer([one])[0])
    else:
        with pytest.raises(EngineClosed):
            future.result(WAIT)
    with pytest.raises(EngineClosed):
        made.submit(served, query(dataset, 1))


@settings(max_examples=15)
@given(data=st.data())
def test_nothing_is_compiled_after_the_start(data: Any, served: ServedModel) -> None:
    given = data.draw(st.lists(queries(served.dataset), min_size=1, max_size=9))
    with engine(served) as made:
        with busy(made):
            futures = [made.submit(served, one) for one in given]
        answers = [future.result(WAIT) for future in futures]
        history = given[0].history
        scores = made.submit_call(lambda: served.log_probs([history], answers[0].slots))
        made.submit_call(lambda: served.similar(np.array([1]), 9)).result(WAIT)
        if history.slots.size:
            expected = answers[0].probabilities
            np.testing.assert_allclose(np.exp(scores.result(WAIT)[0]), expected, 1e-5)
        assert made.counters().compilations_after_ready == 0


def test_compilations_are_counted(served: ServedModel) -> None:
    with engine(served) as made:
        made.submit_call(lambda: jnp.zeros(12345) + 1).result(WAIT)
        assert made.counters().compilations_after_ready > 0


Change = Callable[[Query], Query]


@settings(max_examples=15)
@given(data=st.data())
def test_a_cache_changes_no_answer(
    data: Any, dataset: Dataset, served: ServedModel, next_served: ServedModel
) -> None:
    """Under appended, edited and cut histories, other lists and other models."""
    drawn = data.draw(st.lists(queries(dataset), min_size=1, max_size=3))
    slots = dataset.slots
    with engine(served) as made:
        for _ in range(data.draw(st.integers(3, 12))):
            at = data.draw(st.integers(0, len(drawn) - 1))
            old = drawn[at]
            own, times = old.history.slots, old.history.times
            n = len(own)
            edits = {
                "none": (own, times),
                "append": (
                    np.append(own, slots[data.draw(st.integers(0, 99))]),
                    None if times is None else np.append(times, times[-1:] + 9)
                    if n else np.array([NOW - 100]),
                ),
                "cut": (own[: n // 2], None if times is None else times[: n // 2]),
                "edit": (np.roll(own, 1), times),
                "forget": (own, None),
                "late": (own, None if times is None else times - 5000),
            }  # fmt: skip
            own, times = edits[data.draw(st.sampled_from(sorted(edits)))]
            k = data.draw(st.sampled_from([old.k, 3]))
            other = data.draw(st.sampled_from([old, *drawn]))
            history = History(0, own, times, old.history.request_time)
            now = Query(history, k, other.filter_seen, other.allow, other.deny)
            drawn[at] = now
            model = data.draw(st.sampled_from([served, next_served]))
            if model is not made.served and data.draw(st.booleans()):
                made.replace(model)
            answers = [made.submit(model, now).result(WAIT) for _ in range(2)]
            (expected,) = model.answer([now])
            assert all(same(one, expected) for one in answers)
            assert answers[1].cached == (model is made.served)
        found = made.counters()
        hits, misses = found.cache_hits["answer"], found.cache_misses["answer"]
        assert misses >= sum(found.batches.values()) and hits + misses > 0


def test_the_cache_forgets_what_is_least_recently_used() -> None:
    cache = AnswerCache(2 * 600)
    one = Recommendations(np.arange(10, dtype=np.int32), np.zeros(10, np.float32))
    for key in (b"a", b"b"):
        cache.put(key, one)
    assert cache.get(b"a") is not None
    cache.put(b"a", one)
    cache.put(b"c", one)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None and cache.get(b"c") is not None
    many = np.arange(500, dtype=np.int32)
    cache.put(b"large", Recommendations(many, many.astype(np.float32)))
    assert cache.get(b"large") is None
