"""Training and evaluation: what learns, what is measured, what a run repeats."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close
from hypothesis import given, settings, strategies as st

from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    PRETRAINED_RECIPES,
    LlamaConfig,
    ModelConfig,
    Strategy,
    TrainConfig,
    UserError,
)
from eqids.data import Dataset
from eqids.data.batches import BatchConfig, TrainingBatches, query_batch
from eqids.fit.baselines import MARKOV_ORDER, evaluate_baseline, markov, popularity
from eqids.fit.evaluation import chunks, evaluate, make_ranker
from eqids.fit.memory import estimate
from eqids.fit.optimizer import decays, make_optimizer
from eqids.fit.ranking import metrics, ranks
from eqids.fit.recipe import resolved
from eqids.fit.runs import initial_model, run_keys
from eqids.fit.step import State, make_step, split, start
from eqids.model import Batch, EqIDs
from sharding import Placement

FLOAT32 = jnp.float32
NOWHERE = Placement(None, None)
TINY = LlamaConfig(16, 2, 2, 1, 8, 24, 7, tied=True)


def tiny_model(dataset: Dataset, seed: int = 0, **sizes: object) -> EqIDs:
    config = ModelConfig(
        TINY, dataset.info.num_clusters, dataset.info.room, item_width=8,
        **sizes,  # type: ignore[arg-type]
    )  # fmt: skip
    return initial_model(config, dataset, None, jax.random.key(seed))


@dataclasses.dataclass(frozen=True)
class Trained:
    before: EqIDs
    state: State
    frozen: EqIDs
    losses: list[float]
    compiled: int


@pytest.fixture(scope="module", params=["heads", "all"])
def trained(request: pytest.FixtureRequest, dataset: Dataset) -> Trained:
    """50 steps of a tiny model, from one compiled step."""
    model = tiny_model(dataset, dropout=0.1)
    before = jax.tree.map(np.array, model)
    recipe = dataclasses.replace(NANO_RECIPE, num_steps=50, learning_rate=1e-2)
    optimizer = make_optimizer(recipe, 1.0)
    params, frozen = split(model, request.param, FLOAT32)
    state = start(params, optimizer)
    step = make_step(optimizer, FLOAT32, remat=False)
    batches = TrainingBatches(dataset, BatchConfig(seq_len=24, batch_size=8))
    losses, (_, key) = [], run_keys(0)
    for arrays in batches.iterate(0, 50):
        state, measured = step(state, frozen, Batch.of(arrays), key)
        losses.append(float(measured.loss))
    return Trained(before, state, frozen, losses, step._cache_size())


def test_the_step_compiles_once_and_the_loss_falls(trained: Trained) -> None:
    assert trained.compiled == 1
    assert int(trained.state.step) == 50
    assert np.mean(trained.losses[-10:]) < np.mean(trained.losses[:10]) - 0.05


def test_frozen_llama_is_untouched_and_what_is_below_it_learns(
    trained: Trained,
) -> None:
    heads = not jax.tree.leaves(trained.state.params.llama)
    after = eqx.combine(trained.state.params, trained.frozen)
    same = jax.tree.map(np.array_equal, trained.before, jax.tree.map(np.array, after))
    if heads:
        assert all(jax.tree.leaves(same.llama))
    else:
        assert not any(jax.tree.leaves(same.llama.blocks))
    for part in (same.input_adapter, same.output_adapter, same.softmax.table):
        assert not any(jax.tree.leaves(part))
    assert not same.softmax.cluster_table
    assert not same.gap_table
    stored = {
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(trained.state.optimizer)
    }
    assert any("softmax" in name for name in stored)
    assert any("llama" in name for name in stored) == (not heads)


def test_gradients_reach_inputs_through_a_frozen_llama(dataset: Dataset) -> None:
    """The item vectors that enter, apart from those that are predicted."""
    model = tiny_model(dataset, tied_items=False)
    params, frozen = split(model, "heads", FLOAT32)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 4)).batch(0))
    loss = jax.jit(jax.grad(lambda p: eqx.combine(p, frozen).loss(batch)[0]))
    grads = loss(params)
    assert not jax.tree.leaves(grads.llama)
    for part in (grads.input_table, grads.input_adapter, grads.gap_table):
        for leaf in jax.tree.leaves(part):
            assert bool(jnp.any(leaf != 0))
            assert bool(jnp.all(jnp.isfinite(leaf)))


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 23), st.integers(0, 2**31 - 1))
def test_no_prediction_changes_with_what_comes_after_it(
    dataset: Dataset, k: int, at: int, seed: int
) -> None:
    """On batches of the real pipeline, packing included."""
    model, rng = tiny_model(dataset), np.random.default_rng(seed)
    arrays = TrainingBatches(dataset, BatchConfig(24, 4)).batch(k)
    changed = {name: np.array(array) for name, array in arrays.items()}
    slots = np.flatnonzero(dataset.item_valid)
    changed["items"][:, at + 1 :] = rng.choice(slots, (4, 23 - at))
    changed["gap"][:, at + 1 :] = rng.integers(0, 30, (4, 23 - at))
    changed["segment"][:, at + 1 :] = rng.integers(1, 5, (4, 23 - at))
    changed["target"] = rng.choice(slots, (4, 24))
    queries = jax.jit(EqIDs.queries)
    one, two = (queries(model, Batch.of(x)) for x in (arrays, changed))
    assert_close(two[:, : at + 1], one[:, : at + 1], "float32")
    # Another segment of the row, before it, changes nothing either.
    earlier = arrays["segment"][:, at : at + 1] != arrays["segment"]
    earlier &= np.arange(24) < at
    changed = {name: np.array(array) for name, array in arrays.items()}
    changed["items"][earlier] = rng.choice(slots, int(earlier.sum()))
    three = queries(model, Batch.of(changed))
    assert_close(three[:, at], one[:, at], "float32")


def test_a_target_is_never_among_its_own_inputs(dataset: Dataset) -> None:
    batch = TrainingBatches(dataset, BatchConfig(24, 4)).batch(0)
    one = tiny_model(dataset).loss(Batch.of(batch))
    hidden = {**batch, "target": np.full_like(batch["target"], -1)}
    none = tiny_model(dataset).loss(Batch.of(hidden))
    assert int(one[1]) == int(np.sum(batch["target"] >= 0))
    assert (float(none[0]), int(none[1])) == (0.0, 0)


def test_what_decays_is_matrices_but_no_table_of_items(dataset: Dataset) -> None:
    params, _ = split(tiny_model(dataset), "all", FLOAT32)
    mask = decays(params)
    assert mask.llama.blocks.wq and mask.llama.embedding and mask.input_adapter.w_in
    assert not mask.llama.norm and not mask.llama.blocks.ffn_norm
    assert not mask.softmax.table and not mask.softmax.cluster_table
    assert not mask.softmax.bias and not mask.input_adapter.b_in


def test_the_clip_and_the_schedule_at_their_limits() -> None:
    recipe = dataclasses.replace(
        NANO_RECIPE, num_steps=10, warmup_steps=2, learning_rate=0.1, weight_decay=0.0
    )
    params = eqx.filter(
        EqIDs(ModelConfig(TINY, 2, 2, item_width=4), key=jax.random.key(0)),
        eqx.is_inexact_array,
    )
    grads = jax.tree.map(jnp.ones_like, params)

    def first_moves(clip: float, steps: int) -> list[jax.Array]:
        optimizer = make_optimizer(recipe, clip)
        state, moves = optimizer.init(params), []
        update = jax.jit(optimizer.update)
        for _ in range(steps):
            updates, state = update(grads, state, params)
            moves.append(optax.tree.norm(updates))
        return moves

    # Adam's direction does not see the scale, so neither a huge nor a tiny clip
    # matters to constant gradients, and each move is the schedule's.
    for clip in (1e9, 1e-3):
        moves = np.array(first_moves(clip, 10)) / np.sqrt(
            sum(x.size for x in jax.tree.leaves(params))
        )
        np.testing.assert_allclose(moves[:3], [0.0, 0.05, 0.1], rtol=1e-2)
        assert np.all(np.diff(moves[2:]) < 0)


def test_bfloat16_computes_in_bfloat16_and_scores_in_float32(dataset: Dataset) -> None:
    model = tiny_model(dataset)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 4)).batch(0))
    queries = model.queries(batch, dtype=jnp.bfloat16)
    assert queries.dtype == jnp.bfloat16
    assert model.softmax.log_probs(queries).dtype == jnp.float32
    low = model.loss(batch, dtype=jnp.bfloat16)[0]
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, model.loss(batch)[0], rtol=1e-2)


def test_remat_changes_no_gradient(dataset: Dataset) -> None:
    params, frozen = split(tiny_model(dataset), "all", FLOAT32)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 4)).batch(0))

    def grads(remat: bool) -> EqIDs:
        def loss(params: EqIDs) -> jax.Array:
            return eqx.combine(params, frozen).loss(batch, remat=remat)[0]

        return jax.jit(jax.grad(loss))(params)

    assert_close(grads(True), grads(False), "gradient")


# Ranking


@given(
    st.lists(st.integers(-3, 3), min_size=2, max_size=12),
    st.integers(0, 11),
    st.sets(st.integers(0, 11)),
)
def test_ranks_are_those_of_a_sorted_list(
    values: list[int], target: int, seen: set[int]
) -> None:
    scores = [float(v) for v in values]
    target, seen = target % len(scores), {s for s in seen if s < len(scores)}

    def rank(among: list[int]) -> float:
        above = sum(scores[s] > scores[target] for s in among)
        ties = sum(scores[s] == scores[target] for s in among if s != target)
        return 1 + above + ties / 2

    everything = list(range(len(scores)))
    left = [s for s in everything if s not in seen]
    expected = [np.inf if target in seen else rank(left), rank(everything)]
    padded = np.full(12, len(scores))
    padded[: len(seen)] = sorted(seen)
    found = ranks(jnp.array([scores]), jnp.array([target]), jnp.array([padded]))
    np.testing.assert_array_equal(found[0], expected)


def test_metrics_by_hand() -> None:
    found = metrics(np.array([1.0, 2.5, 12.0, np.inf]))
    assert found["recall@1"] == 0.25 and found["recall@10"] == 0.5
    assert found["recall@20"] == 0.75 and found["mrr@10"] == (1 + 1 / 2.5) / 4
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3.5)) / 4)
    assert found["ndcg@50"] == pytest.approx(
        (1 + 1 / np.log2(3.5) + 1 / np.log2(13)) / 4
    )


def test_evaluation_equals_brute_force_over_every_user(dataset: Dataset) -> None:
    model = tiny_model(dataset)
    ranker = make_ranker(12, FLOAT32, NOWHERE)
    for split_name, position in (
        ("valid", dataset.valid_at),
        ("test", dataset.test_at),
    ):
        result = evaluate(model, dataset, split_name, ranker)
        found, nll = [], []
        for user in np.flatnonzero(position > 0):
            past = slice(dataset.offsets[user], dataset.offsets[user] + position[user])
            history, target = dataset.slots[past], dataset.slots[past.stop]
            batch = Batch.of(query_batch([history], [dataset.times[past]], 12))
            query = model.queries(batch)[0, min(len(history), 12) - 1]
            scores = np.array(model.softmax.log_probs(query))
            nll.append(-scores[target])
            above = [np.sum(scores > scores[target])]
            scores[np.setdiff1d(history, [target])] = -np.inf
            above.insert(0, np.sum(scores > scores[target]))
            found.append([1 + a for a in above])
            if target in history:
                found[-1][0] = np.inf
        expected = np.array(found, float)
        assert result["num_users"] == len(expected) == dataset.info.counts.users_test
        assert result["filtered"] == pytest.approx(metrics(expected[:, 0]))
        assert result["unfiltered"] == pytest.approx(metrics(expected[:, 1]))
        assert result["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
        assert result["seen_target_share"] == np.isinf(expected[:, 0]).mean() > 0


def test_the_test_history_includes_the_validation_item(dataset: Dataset) -> None:
    for valid, test in zip(
        chunks(dataset, "valid"), chunks(dataset, "test"), strict=True
    ):
        for one, two, target in zip(
            valid.histories, test.histories, valid.target, strict=True
        ):
            np.testing.assert_array_equal(two, np.append(one, target))


def test_baselines_equal_loops_over_training_events(dataset: Dataset) -> None:
    trained = [dataset.history(u)[:n] for u, n in enumerate(dataset.train_length)]
    counts = np.zeros(dataset.num_slots)
    follows = np.zeros((dataset.num_slots, dataset.num_slots))
    for history in trained:
        for i, slot in enumerate(history):
            counts[slot] += 1
            for j in range(i + 1, min(i + MARKOV_ORDER, len(history) - 1) + 1):
                follows[slot, history[j]] += 1 / (j - i)
    follows /= np.maximum(follows.sum(axis=1, keepdims=True), 1e-9)
    (chunk,) = chunks(dataset, "test")
    held = dataset.item_valid.reshape(-1)
    expected = np.where(held, counts, -np.inf)
    np.testing.assert_array_equal(popularity(dataset)(chunk)[0], expected)
    scores = markov(dataset)(chunk)
    for row, history in enumerate(chunk.histories):
        recent = history[::-1][:MARKOV_ORDER]
        total = sum(follows[s] / d for d, s in enumerate(recent, start=1))
        np.testing.assert_allclose(scores[row][held], total[held], atol=2e-6)
    result = evaluate_baseline(dataset, "test", popularity(dataset))
    assert set(result) == {"filtered", "unfiltered"}


# Recipes


@pytest.mark.parametrize(
    ("flags", "strategy"),
    [
        (TrainConfig(), "all"),
        (TrainConfig(freeze_llama=True), "heads"),
        (TrainConfig(llama_path=Path("llama")), "heads"),
        (TrainConfig(llama_path=Path("llama"), train="all"), "all"),
    ],
)
def test_unset_flags_come_from_the_recipe(
    flags: TrainConfig, strategy: Strategy
) -> None:
    config = resolved(flags)
    recipe = NANO_RECIPE if flags.llama_path is None else PRETRAINED_RECIPES[strategy]
    assert (config.strategy, config.recipe) == (strategy, recipe)
    changed = resolved(dataclasses.replace(flags, seq_len=9, learning_rate=0.5))
    assert changed.recipe == dataclasses.replace(recipe, seq_len=9, learning_rate=0.5)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: resolved(TrainConfig(llama_size="1b")), "--llama_path"),
        (lambda: resolved(TrainConfig(stop_at=10**9)), "--stop_at is 1000000000"),
        (lambda: TrainConfig(seq_len=0), "--seq_len is 0"),
        (lambda: TrainConfig(dropout=1.0), "--dropout is 1.0"),
        (lambda: TrainConfig(learning_rate=-1.0), "--learning_rate is -1.0"),
        (lambda: TrainConfig(freeze_llama=True, train="all"), "--freeze_llama"),
    ],
)
def test_impossible_flags_are_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build()


def test_memory_is_estimated_without_any_array() -> None:
    config = resolved(TrainConfig(batch_size=2, seq_len=8))
    sizes = ModelConfig(LLAMA_PRESETS["nano"], 3, 4, item_width=8)
    needs = estimate(config, sizes, NOWHERE)
    model = EqIDs(sizes, key=jax.random.key(0))
    floats = [x for x in jax.tree.leaves(model) if x.dtype == jnp.float32]
    weights = 4 * sum(x.size for x in floats)
    assert needs["weights"] == weights + 12  # and the mask of 12 places
    assert needs["state"] == 3 * weights + 12  # and three counters
    assert needs["total"] > needs["state"] + needs["temporaries"] > weights
