"""Counts in runs, checkpoints, pairs, catalogs and recommendations."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import pytest
from folders import write_hf
from models import FLOAT32, NOWHERE, queries
from pairs import STILL, save_pair, write_bases
from runs import flags, once, small

import eqids
from eqids import catalog, train
from eqids.checkpoints import best_step, latest_step, read_manifest, resolve
from eqids.checkpoints.manifest import write_manifest
from eqids.config import MARKOV_ORDER, TrainConfig
from eqids.data import Dataset, open_dataset
from eqids.data.batches.training_batches import query_batch
from eqids.data.facts import facts_of
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.gate import GATES, gate_of, with_gate
from eqids.inference.open import Opened, open_checkpoint, open_pair
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import abstract_run, job_of_run
from eqids.planning.memory import estimate
from eqids.runs.new_model import model_config
from eqids.runs.recipe import resolved


def opened(path: Path, data: Path | None = None) -> Opened:
    return open_checkpoint(path, data, None, NOWHERE)


def without_counts(model: EqIDs) -> EqIDs:
    return eqx.tree_at(lambda m: m.successors, model, None)


def assert_same_metrics(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for side in ("filtered", "unfiltered"):
        assert ours[side] == pytest.approx(theirs[side], rel=1e-6)
    assert ours["nll"] == pytest.approx(theirs["nll"], rel=1e-6)


def mixed_by_hand(
    opened: Opened, history: np.ndarray, times: np.ndarray | None
) -> np.ndarray:
    """P of all slots, from the softmax and the dataset's own table."""
    model, found = opened.model, opened.dataset.successors
    seq_len = opened.config.recipe.seq_len
    batch = Batch.of(query_batch([history], [times], seq_len))
    seen = min(len(history), seq_len)
    query = queries(model, batch)[0, seen - 1]
    softmax = np.exp(np.asarray(model.softmax.log_probs(query), np.float64))
    prob = np.zeros_like(softmax)
    valid = opened.dataset.item_valid.reshape(-1)
    for distance, slot in enumerate(history[: -MARKOV_ORDER - 1 : -1], start=1):
        row = slice(found.offsets[slot], found.offsets[slot + 1])
        weights = found.weights[row] * valid[found.slots[row]]
        if weights.sum() > 0:
            shares = weights.astype(np.float64) / weights.sum()
            prob[found.slots[row]] += shares / distance
    if not prob.any():
        return softmax
    head, own = model.softmax, np.asarray(query, np.float64)
    clusters = np.asarray(head.cluster_table) @ own + np.asarray(head.cluster_bias)
    items = np.asarray(head.table) @ own + np.asarray(head.bias)
    score = (clusters[:, None] + items).reshape(-1)
    prob *= np.exp(0.5 * (score - score[prob > 0].max()))
    share = float(gate_of(model))
    return (1 - share) * softmax + share * prob / prob.sum()


def test_a_checkpoint_has_the_gate_that_was_evaluated(
    finished: Path, dataset: Dataset
) -> None:
    step = best_step(finished)
    found = opened(finished / str(step))
    recorded = read_manifest(finished / str(step)).meta["validation"]
    ranker = make_ranker(found.config.recipe.seq_len, FLOAT32, NOWHERE)
    now = evaluate(found.model, dataset, "valid", ranker)
    assert_same_metrics(now, recorded)
    each = [
        evaluate(with_gate(found.model, gate), dataset, "valid", ranker)
        for gate in (0.0, *GATES[1:])
    ]
    scores = [one["filtered"]["ndcg@10"] for one in each]
    assert scores[0] < max(scores), "counts do not help here: the test shows nothing"
    best = GATES[int(np.argmax(scores))]
    assert float(gate_of(found.model)) == pytest.approx(best)
    assert recorded["counts_weight"] == now["counts_weight"] == best
    plain = evaluate(without_counts(found.model), dataset, "valid", ranker)
    assert_same_metrics(plain, each[0])


def test_recommendations_are_of_the_mixture(finished: Path, dataset: Dataset) -> None:
    recommender = eqids.load(finished)
    for user in (0, 3):
        history = recommender.of_user(f"user {user}")
        table = recommender.recommend([history], k=4)
        prob = mixed_by_hand(recommender.opened, history.slots, history.times)
        prob[history.slots] = 0
        best = np.argsort(-prob, kind="stable")[:4]
        np.testing.assert_allclose(table["probability"], prob[best], rtol=1e-4)
        slots = dataset.slot_of(table["item"])
        np.testing.assert_allclose(prob[slots], prob[best], rtol=1e-4)


def test_a_retired_item_leaves_the_counts_and_the_gate_stays(
    finished: Path, copy: Dataset, tmp_path: Path
) -> None:
    old, out = opened(finished), tmp_path / "next"
    to = ["--checkpoint", str(finished), "--output", str(out)]
    catalog.main(["retire", *flags(copy, "--ids", "item 3,item 4", *to)])
    new = opened(out)
    np.testing.assert_array_equal(gate_of(new.model), gate_of(old.model))
    counts, now = new.model.successors, open_dataset(copy.path)
    assert counts is not None and now.stored_successors is not None
    held = np.asarray(counts.slot)[np.asarray(counts.weight) > 0]
    gone = now.slot_of(["item 3", "item 4"])
    assert not np.isin(held, gone).any()
    was = old.model.successors
    assert was is not None
    assert np.isin(gone, np.asarray(was.slot)[np.asarray(was.weight) > 0]).all()
    sums = np.asarray(counts.weight).sum(axis=-1)
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-6)


@pytest.fixture(scope="module")
def plain(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without counts."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train.main(
        small(
            dataset.path, folder, "--no_counts", "--log_every", "1", "--stop_at", "20"
        )
    )
    return folder


def test_losses_are_those_without_counts(plain: Path, finished: Path) -> None:
    def losses(folder: Path) -> list[float]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [one["loss"] for one in found if "loss" in one and one["step"] <= 20]

    # Two programs, which XLA may fuse in different ways.
    assert losses(plain) == pytest.approx(losses(finished), rel=1e-6) != []


def test_a_run_from_before_there_were_counts_goes_on_without(
    plain: Path, dataset: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(plain, folder)
    path = folder / str(latest_step(folder))
    manifest = read_manifest(path)
    meta = json.loads(json.dumps(manifest.meta))
    del meta["config"]["flags"]["counts"], meta["model"]["num_successors"]
    write_manifest(path, dataclasses.replace(manifest, meta=meta))
    found = opened(path)
    assert found.model.successors is None and not found.config.flags.counts
    ranker = make_ranker(found.config.recipe.seq_len, FLOAT32, NOWHERE)
    now = evaluate(found.model, dataset, "valid", ranker)
    assert_same_metrics(now, meta["validation"])
    train.main(small(dataset.path, folder))
    last = folder / str(latest_step(folder))
    assert last.name == "40" and opened(last).model.successors is None


@pytest.mark.long
def test_a_run_may_begin_or_end_to_count(
    plain: Path, finished: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Weights are loaded either way; a gate that is not loaded is chosen."""
    once_more = ["--num_steps", "1", "--learning_rate", "1e-30"]
    for start, more, has in (
        (plain, [], False), (plain, ["--counts"], True), (finished, [], True),
        (finished, ["--no_counts"], False),
    ):  # fmt: skip
        folder = tmp_path / f"{start.name} {' '.join(more)} {has}"
        load = ["--load_checkpoint", str(resolve(start)), "--batch_size", "4"]
        train.main(["--checkpoint_dir", str(folder), *load, *once_more, *more])
        found, was = opened(folder).model, opened(start).model
        assert (found.successors is not None) == has
        if has and was.successors is not None:
            np.testing.assert_allclose(gate_of(found), gate_of(was), atol=1e-6)
        table = found.softmax.table
        np.testing.assert_allclose(table, was.softmax.table, atol=1e-6)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.long
def test_a_pair_keeps_the_gate(bases: Path, dataset: Dataset, tmp_path: Path) -> None:
    run, pair = save_pair(tmp_path, "heads", bases, dataset)
    ours, theirs = open_pair(pair, None, NOWHERE).model, opened(run).model
    np.testing.assert_array_equal(gate_of(ours), gate_of(theirs))
    assert ours.successors is not None and theirs.successors is not None
    np.testing.assert_array_equal(ours.successors.weight, theirs.successors.weight)
    for more, has in ([], True), (["--no_counts"], False):
        folder = tmp_path / f"next {has}"
        begin = ["--checkpoint_dir", str(folder), "--init_from", str(pair)]
        train.main(once([*begin, *STILL.split(), *more]))
        assert (opened(folder).model.successors is not None) == has


def test_the_estimate_of_memory_counts_the_table(
    dataset: Dataset, tmp_path: Path
) -> None:
    write_hf(tmp_path / "llama")
    given = TrainConfig(data_dir=dataset.path, item_width=8, batch_size=2, seq_len=8)
    stored = []
    for counts in (False, True):
        config = resolved(dataclasses.replace(given, counts=counts), facts_of(dataset))
        llama = dataclasses.replace(eqids.config.LLAMA_PRESETS["nano"], num_layers=1)
        config = dataclasses.replace(
            config,
            flags=dataclasses.replace(config.flags, item_optimizer="dense"),
        )
        job = job_of_run(config, model_config(config, dataset, llama))
        run = abstract_run(job, NOWHERE)
        needs = estimate(job, run)
        compiled = run.step.lower(*run.args).compile().memory_analysis()
        # The compiler pads no argument by more than 64 bytes.
        difference = compiled.argument_size_in_bytes - needs.arguments
        assert 0 <= difference <= 64 * 400
        stored.append(compiled.argument_size_in_bytes)
    table = dataset.successors.table(dataset.item_valid)
    size = table.slot.nbytes + table.weight.nbytes
    assert size <= stored[1] - stored[0] <= size + 512
