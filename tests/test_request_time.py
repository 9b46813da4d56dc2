"""The time of the request in batches, queries and evaluation."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from gaps import bucket
from hypothesis import given, settings, strategies as st
from models import FLOAT32, NOWHERE, tiny_model
from test_words import random_words

from eqids.config import TrainConfig
from eqids.data import Dataset
from eqids.data.batches.training_batches import (
    BatchConfig,
    TrainingBatches,
    query_batch,
)
from eqids.data.facts import facts_of
from eqids.fit import evaluation
from eqids.fit.ranking import metrics
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import abstract_run, job_of_run
from eqids.planning.memory import estimate
from eqids.runs.recipe import resolved

ask = jax.jit(EqIDs.queries)


def with_table(model: EqIDs) -> EqIDs:
    """A model whose request table is no longer zero."""
    table = model.request_table
    assert table is not None and not table.any()
    noise = jax.random.normal(jax.random.key(5), table.shape)
    return eqx.tree_at(lambda m: m.request_table, model, noise)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> EqIDs:
    return with_table(tiny_model(dataset, request_time=True))


@settings(max_examples=25)
@given(
    st.integers(0, 500), st.integers(0, 30), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_each_position_that_predicts_has_the_gap_to_its_target(
    dataset: Dataset, k: int, more: int, text: bool, ties: bool, hidden: float
) -> None:
    """Against the users' own times, in packed rows, with and without text."""
    tokens = random_words(dataset, k, 4, 2) if text else None
    seq_len = (2 if tokens is None else tokens.least_seq_len) + more
    config = BatchConfig(
        seq_len, 3, seed=k, shuffle_ties=ties, gap_dropout=hidden, request_time=True
    )
    batch = TrainingBatches(dataset, config, tokens).batch(k)
    plain = dataclasses.replace(config, request_time=False)
    without = TrainingBatches(dataset, plain, tokens).batch(k)
    assert without.request_gap is None and batch.request_gap is not None
    for name, array in vars(without).items():
        if array is not None:
            np.testing.assert_array_equal(array, getattr(batch, name))
    # All else is 0: padding, items before their text, prompts.
    assert not batch.request_gap[batch.target < 0].any()
    for row in range(3):
        for segment in range(1, batch.segment[row].max() + 1):
            at = batch.segment[row] == segment
            predicts, items = (
                at & (batch.target[row] >= 0),
                at & (batch.items[row] >= 0),
            )
            asked = batch.request_gap[row][predicts].tolist()
            gaps = batch.gap[row][items].tolist()
            run = [*batch.items[row][items], batch.target[row][predicts][-1]]
            assert (gaps, asked) in histories_with(dataset, run, hidden > 0)


def histories_with(
    dataset: Dataset, run: list[int], hidden: bool
) -> list[tuple[list[int], list[int]]]:
    """The gaps and requests of every run of training events with these items."""
    found = []
    assert dataset.times is not None
    for user, length in enumerate(dataset.train_length):
        first = int(dataset.offsets[user])
        for start in range(first, first + int(length) - len(run) + 1):
            span = slice(start, start + len(run))
            if sorted(dataset.slots[span]) == sorted(run):
                times = dataset.times[span].tolist()
                steps = [bucket(b - a) for a, b in zip(times, times[1:], strict=False)]
                found.append(([0, *steps[:-1]], steps))
    if hidden:
        found.append(([0] * (len(run) - 1), [0] * (len(run) - 1)))
    return found


def test_a_query_has_the_gaps_that_follow_and_that_of_its_request() -> None:
    slots, times = np.arange(4, dtype=np.int32), np.array([10, 20, 20, 50])
    asked: list[int | None] = [58, None, 50, 58]
    given: list[np.ndarray | None] = [times, times, times, None]
    batch = query_batch([slots] * 4, given, 6, None, asked)
    assert batch.request_gap is not None
    assert batch.request_gap.tolist() == [
        [5, 1, 6, 5, 0, 0], [5, 1, 6, 0, 0, 0], [5, 1, 6, 1, 0, 0], [0] * 6,
    ]  # fmt: skip
    cut = query_batch([slots], [times], 2, None, [58])
    assert cut.request_gap is not None and cut.request_gap.tolist() == [[6, 5]]
    assert query_batch([slots], [times], 6).request_gap is None


def test_the_input_has_the_gap_to_the_request_where_it_is_known(
    dataset: Dataset, model: EqIDs
) -> None:
    tokens = random_words(dataset, 1, 4, 2)
    config = BatchConfig(20, 3, gap_dropout=0.5, request_time=True)
    batch = Batch.of(TrainingBatches(dataset, config, tokens).batch(0))
    assert model.request_table is not None and batch.request_gap is not None
    items = model.item_vectors(batch.items, jnp.float32)
    found = model.embed(batch, items)
    without = tiny_model(dataset).embed(batch, items)
    assert 5 < np.count_nonzero(batch.request_gap) < batch.request_gap.size
    for row, at in np.ndindex(3, 20):
        gap = int(batch.request_gap[row, at])
        more = model.request_table[gap] if gap else 0.0
        assert_close(found[row, at], without[row, at] + more, "float32")


@settings(max_examples=15)
@given(st.integers(0, 300), st.data())
def test_a_query_sees_its_request_and_nothing_after_it(
    dataset: Dataset, model: EqIDs, k: int, data: Any
) -> None:
    config = BatchConfig(24, 2, gap_dropout=0.0, request_time=True)
    arrays = TrainingBatches(dataset, config).batch(k)
    assert arrays.request_gap is not None
    row, at = data.draw(st.sampled_from(np.argwhere(arrays.target >= 0).tolist()))
    rng, after = np.random.default_rng(k), slice(at + 1, None)
    changed = {name: array.copy() for name, array in vars(arrays).items()}
    changed["target"][row] = -1
    changed["items"][row, after] = rng.choice(
        np.flatnonzero(dataset.item_valid), 23 - at
    )
    for name in ("gap", "request_gap"):
        changed[name][row, after] = rng.integers(0, 30, 23 - at)
    other = dataclasses.replace(arrays, **changed)
    one, two = (ask(model, Batch.of(batch)) for batch in (arrays, other))
    np.testing.assert_array_equal(one[row, : at + 1], two[row, : at + 1])
    changed["request_gap"][row, at] += 1
    three = ask(model, Batch.of(dataclasses.replace(other, **changed)))
    np.testing.assert_array_equal(three[row, :at], two[row, :at])
    assert np.abs(three[row, at] - two[row, at]).max() > 1e-4


def test_an_evaluation_asks_at_the_times_of_the_targets(
    dataset: Dataset, model: EqIDs
) -> None:
    """By brute force: every user's history alone, with the gap to the target."""
    assert dataset.times is not None
    ranker = evaluation.make_ranker(12, FLOAT32, NOWHERE)
    found = evaluation.evaluate(model, dataset, "test", ranker)
    ranked, nll = [], []
    for user in np.flatnonzero(dataset.test_at > 0):
        target = dataset.offsets[user] + dataset.test_at[user]
        past = slice(dataset.offsets[user], target)
        history, times = dataset.slots[past], dataset.times[past]
        host = query_batch([history], [times], 12)
        last = min(len(history), 12) - 1
        gaps = np.zeros((1, 12), np.int32)
        gaps[0, :last] = host.gap[0, 1 : last + 1]
        gaps[0, last] = bucket(int(dataset.times[target] - times[-1]))
        batch = Batch.of(dataclasses.replace(host, request_gap=gaps))
        scores = np.array(model.softmax.log_probs(ask(model, batch)[0, last]))
        own = scores[dataset.slots[target]]
        nll.append(-own)
        ranked.append(1 + np.sum(scores > own))
    assert found["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert found["unfiltered"] == pytest.approx(metrics(np.array(ranked, float)))
    # A model that does not read the time is asked as before.
    plain = evaluation.evaluate(tiny_model(dataset), dataset, "test", ranker)
    no_times = dataclasses.replace(dataset, times=None)
    assert plain["nll"] != pytest.approx(found["nll"], rel=1e-4)
    unknown = evaluation.evaluate(model, no_times, "test", ranker)
    assert unknown["nll"] != pytest.approx(found["nll"], rel=1e-4)


@pytest.mark.parametrize("request_time", [False, True])
def test_a_steps_arguments_are_what_is_estimated(
    request_time: bool, dataset: Dataset
) -> None:
    flags = TrainConfig(
        batch_size=2, seq_len=8, item_width=8, request_time=request_time
    )
    flags = dataclasses.replace(flags, item_optimizer="dense")
    config = resolved(flags, facts_of(dataset))
    sizes = tiny_model(dataset, request_time=request_time).config
    job = job_of_run(config, sizes)
    planned = abstract_run(job, NOWHERE)
    memory = planned.step.trace(*planned.args).lower().compile().memory_analysis()
    assert estimate(job, planned).arguments == memory.argument_size_in_bytes
    assert (planned.batch.request_gap is None) != request_time
