"""The time of the request: batches, queries, evaluation and recommendations by it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from conftest import assert_close
from hypothesis import given, settings, strategies as st
from models import FLOAT32, NOWHERE, log_probs_at, tiny_model
from pytest import CaptureFixture
from runs import refused, save_noisy, small
from test_words import random_words

import eqids
from convert import __main__ as convert_command
from eqids import evaluate, recommend, train
from eqids.config import TrainConfig, UserError
from eqids.data import Dataset
from eqids.data.batches.training_batches import (
    BatchConfig,
    TrainingBatches,
    query_batch,
)
from eqids.data.facts import facts_of
from eqids.fit import evaluation
from eqids.fit.ranking import metrics
from eqids.inference.recommender import Recommender
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import abstract_run, job_of_run
from eqids.planning.memory import estimate
from eqids.runs.recipe import resolved

SEQ_LEN = 16
ask = jax.jit(EqIDs.queries)


def bucket(seconds: int) -> int:
    return 1 if seconds == 0 else 2 + math.floor(math.log2(seconds))


def with_table(model: EqIDs) -> EqIDs:
    """A model whose request table is no longer zero."""
    table = model.request_table
    assert table is not None and not table.any()
    noise = jax.random.normal(jax.random.key(5), table.shape)
    return eqx.tree_at(lambda m: m.request_table, model, noise)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> EqIDs:
    return with_table(tiny_model(dataset, request_time=True))


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that reads the time of the request."""
    folder = tmp_path_factory.mktemp("timed") / "run"
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, seq_len=SEQ_LEN, request_time=True
    )
    save_noisy(folder, flags, dataset)
    return folder


@pytest.fixture(scope="module")
def recommender(run: Path) -> Recommender:
    return eqids.load(run)


def longest(dataset: Dataset) -> tuple[int, np.ndarray, np.ndarray]:
    """The user with most events, their slots and times."""
    user = int(np.argmax(np.diff(dataset.offsets)))
    span = slice(dataset.offsets[user], dataset.offsets[user + 1])
    assert dataset.times is not None
    return user, dataset.slots[span], dataset.times[span]


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


def test_recommendations_are_those_of_the_evaluations_query(
    dataset: Dataset, recommender: Recommender
) -> None:
    user, slots, times = longest(dataset)
    model, asked = recommender.opened.model, int(times[-1]) + 5000
    host = query_batch([slots], [times], SEQ_LEN)
    gaps = np.append(host.gap[0, 1:], bucket(5000)).astype(np.int32)[None]
    batch = Batch.of(dataclasses.replace(host, request_gap=gaps))
    scores = log_probs_at(model, batch, SEQ_LEN - 1)
    history = recommender.of_user(f"user {user}")

    def probabilities(**more: Any) -> np.ndarray:
        found = recommender.recommend([history], 30, filter_seen=False, **more)
        slot = dataset.find_items(found["item"])
        return found["probability"].to_numpy()[np.argsort(slot)]

    expected = np.exp(np.asarray(scores)[dataset.item_valid.reshape(-1)])
    text = str(np.datetime64(asked, "s"))
    for times_given in (text, [text], pd.Timestamp(text), np.datetime64(text)):
        found = probabilities(request_times=times_given)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    named = dataclasses.replace(history, request_time=asked)
    found = recommender.recommend([named], 30, filter_seen=False)["probability"]
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-4)
    other = probabilities(request_times="1970-01-20")
    assert np.abs(other - expected).max() > 1e-3
    # By default it is now, many years after these events.
    now = probabilities()
    far = probabilities(request_times=1_704_067_200)
    np.testing.assert_allclose(now, far, rtol=1e-6)
    last = probabilities(request_times="last")
    same = str(np.datetime64(int(times[-1]), "s"))
    np.testing.assert_allclose(last, probabilities(request_times=same))
    assert np.abs(last - now).max() > 1e-3


def test_files_and_the_command_say_when_it_is_asked(
    dataset: Dataset, run: Path, recommender: Recommender, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    user, slots, times = longest(dataset)
    ids = dataset.items().set_index("slot")["item"]
    asked = str(np.datetime64(int(times[-1]) + 5000, "s"))
    frame = pd.DataFrame(
        {"user": "a", "item": ids.loc[slots].to_numpy(), "time": times}
    )
    expected = recommender.recommend(frame, 4, request_times=asked)
    timed = frame.assign(request_time=asked)
    timed.to_csv(tmp_path / "in.csv", index=False)
    given = ["--checkpoint", str(run), "--k", "4"]
    file = ["--input", str(tmp_path / "in.csv")]
    recommend.main([*given, *file, "--output", str(tmp_path / "out.parquet")])
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-6)
    pd.testing.assert_frame_equal(recommender.recommend(timed, 4), found)
    capsys.readouterr()
    one = [*given, "--user", f"user {user}", "--request_time"]
    recommend.main([*one, asked])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in shown] == [
        item.split() for item in expected["item"]
    ]
    output = ["--output", str(tmp_path / "o.csv")]
    both = [*given, *file, *output, "--request_time", asked]
    assert "wanted one of both" in refused(recommend.main, both, capsys)
    for text, said in (
        ("soon", "--request_time is 'soon', wanted unix seconds, a date and time"),
        ("5", "is at " + str(times[-1])),
    ):
        assert said in refused(recommend.main, [*one, text], capsys)
    ids_alone = [*given, "--history", "item 1", "--request_time", asked]
    assert "no times of events" in refused(recommend.main, ids_alone, capsys)


def test_request_times_that_do_not_fit_are_refused(
    dataset: Dataset, finished: Path, recommender: Recommender,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    _, slots, times = longest(dataset)
    ids = dataset.items().set_index("slot")["item"]
    frame = pd.DataFrame(
        {"user": "a", "item": ids.loc[slots].to_numpy(), "time": times}
    )
    late = int(times[-1]) + 5
    two = frame.assign(request_time=[late] * (len(frame) - 1) + [late + 1])
    with pytest.raises(UserError, match="has 2 values for user 'a', wanted the same"):
        recommender.recommend(two)
    with pytest.raises(UserError, match="request_times holds 2 times, wanted one for"):
        recommender.recommend(frame, request_times=[late, late])
    early = recommender.of_user("user 0")
    early = dataclasses.replace(early, request_time=int(early.times[-1]) - 1)
    with pytest.raises(UserError, match="wanted unix seconds that are not before it"):
        recommender.recommend([early])
    # A model that does not read it leaves a column of that name alone.
    plain = eqids.load(finished)
    with pytest.raises(UserError, match="was trained without --request_time; wanted"):
        plain.recommend(frame, request_times=late)
    pd.testing.assert_frame_equal(
        plain.recommend(frame), plain.recommend(frame.assign(request_time="x"))
    )
    given = ["--checkpoint", str(finished), "--user", "user 1", "--request_time", "9"]
    said = refused(recommend.main, given, capsys)
    assert "--request_time is given, and" in said


def test_a_run_is_trained_resumed_and_marked(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = small(dataset.path, folder, "--num_steps", "6", "--eval_every", "3")
    train.main([*flags, "--request_time", "--stop_at", "3"])
    assert "--request_time" in refused(train.main, flags, capsys)
    train.main([*flags, "--request_time"])
    heading = "EqIDs knows when each target was requested (--request_time)"
    assert heading in capsys.readouterr().out
    table = eqids.load(folder).opened.model.request_table
    assert table is not None and not table[0].any() and table[bucket(50)].any()
    evaluate.main(["--checkpoint", str(folder), "--json", str(tmp_path / "r.json")])
    again = json.loads((tmp_path / "r.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert again == result and result["protocol"]["request_time"] is True
    plain = json.loads((finished / "result.json").read_text())
    assert "request_time" not in plain["protocol"]
    # Another run takes it over, and cannot begin to read it.
    start = [
        "--load_checkpoint",
        str(finished),
        "--checkpoint_dir",
        str(tmp_path / "x"),
    ]
    said = refused(train.main, [*start, "--request_time"], capsys)
    assert "was trained with --no_request_time, this run has --request_time" in said


def test_a_dataset_without_times_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    untimed = without_times(dataset, tmp_path / "d")
    flags = small(untimed, tmp_path / "run", "--request_time")
    said = refused(train.main, flags, capsys)
    assert said.startswith(f"error: {untimed} has no times, wanted no --request_time")


def without_times(dataset: Dataset, path: Path) -> Path:
    """Writes the dataset without its times."""
    import pyarrow.parquet as pq

    from eqids.data import write_dataset
    from eqids.data.files import ITEMS_FILE, USERS_FILE

    users, items = (pq.read_table(dataset.path / n) for n in (USERS_FILE, ITEMS_FILE))
    vectors = dataset.item_vectors[dataset.item_valid]
    histories = {"slots": dataset.slots, "offsets": dataset.offsets}
    write_dataset(path, dataset.info, histories, users, items, vectors)
    return path


def test_an_export_reads_the_time_as_its_checkpoint_does(
    dataset: Dataset, run: Path, recommender: Recommender, tmp_path: Path
) -> None:
    convert_command.main(["eqids-to-hf", str(run), str(tmp_path / "pair")])
    pair = eqids.load(tmp_path / "pair")
    history = [recommender.of_user("user 0")]
    for times in ("last", "2024-01-01"):
        pd.testing.assert_frame_equal(
            pair.recommend(history, request_times=times),
            recommender.recommend(history, request_times=times),
        )


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
