"""One user with very many events: memory and answers are those of the others."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import make_dataset
from hypothesis import given, settings, strategies as st
from models import FLOAT32, NOWHERE, queries, tiny_model

from eqids.data import Dataset
from eqids.data.batches.token_packing import Events, TokenPackingPlan
from eqids.data.batches.training_batches import query_batch
from eqids.fit import evaluation
from eqids.fit.baseline_ranks import ranks_by
from eqids.fit.baselines import markov, popularity
from eqids.fit.evaluation import chunks, evaluate, make_ranker
from eqids.model import Batch

LONG = 400_000


def with_long_user(dataset: Dataset, num_events: int) -> Dataset:
    """The dataset, and one user more who used its items again and again."""
    items = dataset.items()["slot"].to_numpy()
    slots = np.random.default_rng(9).choice(items, num_events).astype(np.int32)
    times = 1_000_000 + np.arange(num_events)

    def user(values: np.ndarray, value: int) -> np.ndarray:
        return np.append(values, value).astype(values.dtype)

    return dataclasses.replace(
        dataset,
        info=dataclasses.replace(dataset.info, num_users=dataset.num_users + 1),
        slots=np.append(dataset.slots, slots),
        times=np.append(dataset.times, times),
        offsets=user(dataset.offsets, len(dataset.slots) + num_events),
        train_length=user(dataset.train_length, num_events - 2),
        valid_at=user(dataset.valid_at, num_events - 2),
        test_at=user(dataset.test_at, num_events - 1),
    )


def peak(function: Callable[[], Any]) -> int:
    """Bytes that NumPy and Python hold at most while a function runs."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """A dataset without the long user, and with."""
    path = tmp_path_factory.mktemp("long") / "d"
    short = make_dataset(path, num_users=300, num_clusters=20, num_items=110)
    return short, with_long_user(short, LONG)


def test_a_chunk_holds_distinct_items_and_no_event(both: Any) -> None:
    widths = [{chunk.seen.shape for chunk in chunks(d, "test")} for d in both]
    assert widths[0] == widths[1] and len(widths[0]) == 1
    for chunk in chunks(both[1], "test"):
        pairs = set(zip(chunk.seen_by.flat, chunk.seen.flat, strict=True))
        pairs -= {(0, np.iinfo(np.int32).max)}
        expected = {
            (row, slot)
            for row, history in enumerate(chunk.histories[: chunk.num_users])
            for slot in history.tolist()
        }
        assert pairs == expected
        # Histories are views, not copies.
        assert all(history.base is not None for history in chunk.histories)


def test_memory_of_an_evaluation_does_not_follow_the_longest_history(
    both: Any,
) -> None:
    def evaluated(dataset: Dataset) -> Callable[[], Any]:
        model, ranker = tiny_model(dataset), make_ranker(12, FLOAT32, NOWHERE)
        return lambda: (
            evaluate(model, dataset, "test", ranker),
            ranks_by(popularity(dataset), dataset, "test"),
            ranks_by(markov(dataset), dataset, "test"),
        )

    runs = [evaluated(dataset) for dataset in both]
    for run in runs:
        run()  # compiles, which takes memory too
    short, long = map(peak, runs)
    # Distinct items of a history are found by sorting it, and the followers of an event
    # are three numbers: some times 4 bytes an event, where `seen` took 256 times.
    assert long - short < 60 * LONG, (short, long)


@pytest.mark.long
def test_ranks_do_not_depend_on_who_is_ranked_together(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = with_long_user(dataset, 500)
    model, expected = tiny_model(long), []
    for user in np.flatnonzero(long.test_at > 0):
        past = slice(long.offsets[user], long.offsets[user] + long.test_at[user])
        history, target = long.slots[past], long.slots[past.stop]
        arrays = query_batch([history], [long.times[past]], 12)
        query = queries(model, Batch.of(arrays))[0, min(len(history), 12) - 1]
        scores = np.array(model.softmax.log_probs(query))
        left = np.setdiff1d(np.flatnonzero(long.item_valid), [*history, target])
        rank = 1.0 + np.sum(scores[left] > scores[target])
        unfiltered = 1.0 + np.sum(scores > scores[target])
        expected.append([np.inf if target in history else rank, unfiltered])
    ranker = make_ranker(12, FLOAT32, NOWHERE)
    for most_seen, most in ((1, 3), (40, 3), (40, 256), (2**20, 3), (2**20, 256)):
        monkeypatch.setattr(evaluation, "_MOST_SEEN", most_seen)
        parts = [ranker(model, chunk) for chunk in chunks(long, "test", most=most)]
        np.testing.assert_array_equal(np.concatenate(parts)[:, :2], expected)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(1, 30),
    st.integers(0, 2**31 - 1),
)
def test_windows_with_words_follow_one_another(
    lengths: list[int], most_tokens: int, prompt: int, cluster_size: int, seed: int
) -> None:
    """Each history is walked here window by window, from the first cut on."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    size = 1 + rng.integers(0, most_tokens + 1, offsets[-1])
    tied = np.zeros(len(size), np.bool_)
    cluster_size += 1 + most_tokens
    length = np.array(lengths)
    plan = TokenPackingPlan(
        Events(offsets, length, size, tied), prompt, prompt + cluster_size, 3
    )
    for epoch in range(2):
        drawn = plan.epoch(epoch)
        order = np.lexsort((drawn.start, drawn.user))
        windows = np.stack([drawn.user, drawn.start, drawn.length], axis=1)[order]
        for user in np.flatnonzero(length > 1):
            own = windows[windows[:, 0] == user][:, 1:].tolist()
            sizes = size[offsets[user] : offsets[user + 1]]
            start = own[0][1]
            assert own[0][0] == 0
            for first, taken in own[1:]:
                assert first == start
                fits = np.cumsum(sizes[first:-1]) <= cluster_size
                assert taken == min(int(fits.sum()), lengths[user] - 1 - first)
                start = first + taken
            assert start == lengths[user] - 1


def test_a_history_of_many_windows_is_cut_in_few_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = []
    searchsorted = np.searchsorted

    def counted(*args: Any, **kwargs: Any) -> np.ndarray:
        rounds.append(1)
        return searchsorted(*args, **kwargs)

    monkeypatch.setattr(np, "searchsorted", counted)
    size = np.full(50_000, 3)
    events = Events(
        np.array([0, len(size)]), np.array([len(size)]), size, np.zeros(len(size), bool)
    )
    TokenPackingPlan(events, 0, 12, 0)
    assert len(rounds) < 20
