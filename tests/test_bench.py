"""The bench: fair turns, right sums, peers that agree, and the command end to end."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, strategies as st
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

import eqids
from bench import (
    __main__ as command,
    catalogs,
    checkpoint_speed as checkpoint,
    contender,
    head,
    machine,
    topk,
)
from bench.clock import Spread, Stoppable, Timing, alternate, exponent
from bench.full_softmax import FullSoftmax, chunked_loss, whole_loss
from bench.options import Options
from bench.record import ResultRow
from bench.trained import trained_head
from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.model import Batch


class Stopwatch:
    """A clock that only work advances."""

    def __init__(self) -> None:
        self.time, self.turns = 0.0, list[str]()

    def __call__(self) -> tuple[float, float]:
        return self.time, self.time / 2

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes the first time for the warm-up, then the others again and again."""
        left: Iterator[float] = iter(seconds * 100)

        def run() -> None:
            self.turns.append(name)
            self.time += next(left)

        return run


def test_contenders_take_turns_in_changing_order() -> None:
    watch = Stopwatch()
    work = {"a": watch.work("a", 9, 1, 2, 3), "b": watch.work("b", 1)}
    timings = alternate(work, 3, 100, clock=watch)
    assert "".join(watch.turns) == "ab" + "abbaab"
    assert timings["a"] == Timing((1, 2, 3), (0.5, 1, 1.5))
    assert timings["b"] == Timing((1, 1, 1), (0.5, 0.5, 0.5))


def test_turns_can_begin_with_a_run_that_does_not_count() -> None:
    watch = Stopwatch()
    work = {"a": watch.work("a", 9, 1), "b": watch.work("b", 7, 5, 2)}
    timings = alternate(work, 2, 100, settle=True, clock=watch)
    assert "".join(watch.turns) == "ab" + "aabb" + "bbaa"
    assert timings["a"].wall == (9, 9)
    assert timings["b"].wall == (2, 5)


def test_slow_contenders_run_less_often_evenly_spread_or_once() -> None:
    watch = Stopwatch()
    work = {n: watch.work(n, s) for n, s in {"a": 1, "b": 4, "c": 11}.items()}
    timings = alternate(work, 6, 10, clock=watch)
    assert [len(t.wall) for t in timings.values()] == [6, 2, 1]
    assert timings["c"].wall == (11,)
    assert "".join(watch.turns) == "abc" + "a" + "a" + "ab" + "a" + "a" + "ba"


@given(st.lists(st.floats(0.001, 1000), min_size=1))
def test_spread_is_of_quantiles(values: list[float]) -> None:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = Spread.of(tuple(values))
    found = [spread.low, spread.median, spread.high]
    np.testing.assert_allclose(found, [low, median, high])


@given(st.floats(-1, 2), st.floats(0.1, 10))
def test_exponent_is_the_slope_of_logarithms(power: float, factor: float) -> None:
    sizes = [1e4, 1e5, 1e6, 1e7]
    found = exponent(sizes, [factor * size**power for size in sizes])
    assert found == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("items, chunk", [(1, 4), (12, 4), (13, 4), (3, 1)])
def test_full_softmaxes_agree_with_float64(items: int, chunk: int) -> None:
    rng = np.random.default_rng(items)
    vectors = rng.standard_normal((items, 3)).astype(np.float32)
    hidden = rng.standard_normal((5, 3)).astype(np.float32)
    item = rng.integers(0, items, 5).astype(np.int32)
    logits = hidden.astype(np.float64) @ vectors.T.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = p - np.eye(items)[item]
    loss = -np.log(p[np.arange(5), item]).sum()
    softmax = FullSoftmax(vectors, chunk)
    for function in (whole_loss, chunked_loss):
        value = jax.value_and_grad(function, argnums=(0, 1))
        found, (grads, to_hidden) = value(softmax, jnp.array(hidden), jnp.array(item))
        by_item = (
            grads.table.reshape(-1, 3)[:items],
            grads.bias.reshape(-1)[:items],
        )
        assert_close(found, loss, "float32")
        assert_close(to_hidden, error @ vectors, "gradient")
        assert_close(by_item, (error.T @ hidden, error.sum(axis=0)), "gradient")
        assert not grads.table.reshape(-1, 3)[items:].any()


@pytest.mark.parametrize("perplexity", [1.5, 8.0, 30.0])
def test_queries_have_the_given_perplexity(perplexity: float) -> None:
    softmax = catalogs.random_head(70, 32, 8, seed=1)
    assert int(softmax.valid.sum()) == 70
    assert softmax.valid.sum(axis=1).min() == 2
    log_p = np.asarray(
        softmax.cluster_log_probs(catalogs.queries(softmax, 6, perplexity, seed=2)),
        np.float64,
    )
    entropy = -(np.exp(log_p) * log_p).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), perplexity, rtol=1e-3)


def test_targets_follow_zipf_whatever_their_number() -> None:
    item = catalogs.zipf_items(1_000, 20_000, seed=0)
    count = np.sort(np.bincount(item, minlength=1_000))[::-1]
    harmonic = sum(1 / r for r in range(1, 1_001))
    for rank in (1, 2, 5):
        expected = 20_000 / rank / harmonic
        assert abs(count[rank - 1] - expected) < 5 * math.sqrt(expected)
    assert len(np.unique(item)) > 500
    popular = np.argsort(-np.bincount(item, minlength=1_000))[:200]
    assert abs(popular.mean() - 500) < 5 * 289 / math.sqrt(200)


def test_slots_are_those_of_the_valid_places() -> None:
    softmax = catalogs.random_head(5, 2, 4, seed=0)
    found = catalogs.slots_of(softmax, np.arange(5, dtype=np.int32))
    assert found.tolist() == [0, 1, 2, 3, 4]
    softmax = catalogs.random_head(7, 3, 4, seed=0)
    found = catalogs.slots_of(softmax, np.arange(7, dtype=np.int32))
    assert found.tolist() == [0, 1, 2, 3, 4, 6, 7]


def kill(options: Options, case: int) -> contender.Measured:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return [], []


def refuse(options: Options, case: int) -> contender.Measured:
    raise UserError(f"case {case} is refused")


def once(seconds: float) -> ResultRow:
    return ResultRow({}, "a", "step", 10, Timing((seconds,), (seconds,)), "cpu", "cpu")


def note(options: Options, case: int) -> contender.Measured:
    return [once(case)], [f"case {case}"]


@pytest.mark.long
def test_cases_are_measured_in_processes_of_their_own() -> None:
    rows, notes = contender.measure_each(note, Options(), [1, 2])
    assert [row.process for row in rows] == ["1", "2"]
    assert [dataclasses.replace(row, process="") for row in rows] == [once(1), once(2)]
    assert notes == ["case 1", "case 2"]
    with pytest.raises(UserError, match="case 3 is refused"):
        contender.measure_each(refuse, Options(), [3])
    with pytest.raises(UserError, match="measured 4 was killed by signal 9"):
        contender.measure_each(kill, Options(), [4])


def test_peers_that_do_not_fit_are_left_out_with_a_note(
    monkeypatch: MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "free_bytes", lambda: 100 * 10**9)
    held = head._Peer("held", lambda: contender.Contender("", "", list), 50 * 10**9, 0)
    added = dataclasses.replace(held, name="added", held=0, added=45 * 10**9)
    made, notes = head._that_fit([held, added, held], "here")
    assert len(made) == 1
    assert notes[0].startswith("added is left out at here: it needs about 45.0 GB")
    assert notes[1].startswith("held is left out at here: it needs about 50.0 GB")


@pytest.mark.long
@pytest.mark.parametrize("section", ["head", "topk"])
def test_the_quick_bench_ends_with_a_table_and_json(
    section: str, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "pin", lambda cores: None)
    path = tmp_path / "result.json"
    command.main([section, "--quick", "--repetitions", "2", "--json", str(path)])
    result = json.loads(path.read_text())
    text = capsys.readouterr().out
    module = {"head": head, "topk": topk}[section]
    for key in module.MEANINGS:
        assert key in result[section]
        assert f"{section}.{key} " in text
    about = {"config", "machine", "versions", "commit", "busy_cores"}
    assert set(result) == {section} | about
    assert result["config"]["quick"] is True
    assert result["versions"]["jax"] == jax.__version__
    for one in result[section]["rows"]:
        assert len(one["timing"]["wall"]) == len(one["timing"]["cpu"]) <= 2
        assert one["seconds"]["low"] <= one["seconds"]["median"]
        assert one["name"] in text
    ours = [r for r in result[section]["rows"] if r["name"] == "EqIDs"]
    assert all(r["compile_seconds"] > 0 and r["temp_bytes"] > 0 for r in ours)
    if section == "head":
        assert math.isfinite(result["head"]["exponent"])
        assert result["head"]["ratio_1m"] is None
        assert {r["work"] for r in ours} == {"forward + backward", "with update"}
    else:
        assert result["topk"]["ratio_flat"] > 0
        assert all(r["facts"]["same"] == 1 for r in ours)


def test_a_stopped_clock_does_not_count() -> None:
    watch = Stopwatch()
    clock = Stoppable(watch)
    work, rest = watch.work("work", 2, 3), watch.work("rest", 7)

    def run() -> None:
        with clock.stopped():
            rest()
        work()
        with clock.stopped():
            rest()

    timings = alternate({"a": run}, 1, 100, clock=clock)
    assert timings["a"] == Timing((3,), (1.5,))


@pytest.mark.long
@pytest.mark.parametrize("peer", [True, False])
def test_the_quick_bench_of_checkpoints(
    peer: bool, tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    if peer and not checkpoint.has_orbax():
        pytest.skip("needs orbax-checkpoint")
    monkeypatch.setattr(checkpoint, "has_orbax", lambda: peer)
    monkeypatch.setattr(command, "pin", lambda cores: None)
    path = tmp_path / "result.json"
    argv = ["checkpoint", "--quick", "--size", "0.01", "--repetitions", "1"]
    command.main([*argv, "--folder", str(tmp_path), "--json", str(path)])
    found, text = json.loads(path.read_text())["checkpoint"], capsys.readouterr().out
    for key in checkpoint.MEANINGS:
        assert f"checkpoint.{key} " in text
        assert (found[key] is None) == (not peer and key.startswith("orbax"))
        assert found[key] is None or math.isfinite(found[key])
    assert (f"{checkpoint.ORBAX} is left out" in text) is not peer
    shares = {(row["name"], row["work"]): row["facts"] for row in found["rows"]}
    assert shares["EqIDs", "begin a save, the first time"]["memory"] > 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    rows = {(r["name"], r["work"]): r["seconds"]["median"] for r in found["rows"]}
    slow, fast = rows["EqIDs", "save"], rows["EqIDs", "begin a save"]
    assert found["blocking_share"] == pytest.approx(fast / slow)
    slow, fast = rows["EqIDs", "save"], rows["file copy", "copy"]
    assert found["save_share"] == pytest.approx(fast / slow)


def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for argv, tokens in (
        (["head", "--json", str(tmp_path / "no" / "x.json")], "cannot be written"),
        (["topk", "--json", str(tmp_path)], "is a folder, wanted a file"),
        (["topk", "--plot", str(tmp_path)], "is a folder, wanted a file"),
        (["head", "--targets", "0"], "--targets is 0, wanted 1 or more"),
        (["topk", "--cores", "0"], "--cores is 0, wanted 1 or more"),
        (["topk", "--cores", "10000"], "--cores is 10000, but this process may use"),
        (["topk", "--plot", str(tmp_path / "x.png")], "pip install 'eqids[bench]'"),
        (["topk", "--checkpoint", str(tmp_path / "run")], "no such"),
        (["checkpoint", "--size", "0"], "--size is 0.0, wanted more than 0"),
        (["checkpoint", "--devices", "0"], "--devices is 0, wanted 1 or more"),
        (["checkpoint", "--size", "1e9"], "GB left, wanted 4000000000.0, see --folder"),
        (["checkpoint", "--folder", str(tmp_path / "no")], "no such folder"),
        (["load", "--folder", str(tmp_path / "no")], "no such folder"),
        (["load", "--llama_path", str(tmp_path / "no")], "no such folder"),
        (["train", "--data_dir", str(tmp_path / "no")], str(tmp_path / "no")),
    ):
        said = refused(command.main, argv, capsys)
        assert tokens in " ".join(said.split())


def test_the_machine_is_described() -> None:
    found = machine.describe()
    assert found["cpu"] and found["cores"] >= 1
    assert json.loads(json.dumps(found)) == found
    machine.reset_peak()
    before = machine.peak_bytes()
    block = np.ones(50_000_000, np.uint8)
    after = machine.peak_bytes()
    assert before is not None and after is not None
    assert after - before > 40_000_000
    del block
    machine.reset_peak()
    assert machine.peak_bytes() < after - 40_000_000  # type: ignore[operator]


@pytest.mark.long
def test_a_trained_catalog_gets_queries_of_its_users(
    dataset: Dataset, finished: Path
) -> None:
    softmax, hidden = trained_head(finished, None, 3)
    opened = eqids.load(finished).opened
    seq_len = opened.config.recipe.seq_len
    table = opened.model.softmax.table
    np.testing.assert_array_equal(softmax.table, table)
    for user, query in zip((0, 19, 39), hidden, strict=True):
        span = slice(dataset.offsets[user], dataset.offsets[user + 1])
        host = query_batch([dataset.slots[span]], [dataset.times[span]], seq_len)
        wanted = opened.model.queries_at(
            Batch.of(host), jnp.asarray(last_positions(host)), dtype=jnp.float32
        )
        np.testing.assert_allclose(query, wanted[0], rtol=1e-4, atol=1e-5)
