"""Training: what learns, what is left alone, and what the step repeats."""

import copy
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close
from hypothesis import given, settings, strategies as st
from models import FLOAT32, TINY, tiny_model

from eqids.config import NANO_RECIPE, ItemOptimizer, ModelConfig, Schedule
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.optimizer import decays, make_optimizer, make_schedule
from eqids.fit.step import State, make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch, EqIDs
from eqids.runs.run_keys import run_keys


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
    config = StepConfig(request.param, recipe)
    params, frozen = split(model, request.param, FLOAT32)
    state, step = start(params, make_optimizer(config)), make_step(config)
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


def test_frozen_llama_is_unchanged_and_what_is_below_it_learns(
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
    changed, slots = copy.deepcopy(arrays), np.flatnonzero(dataset.item_valid)
    changed.items[:, at + 1 :] = rng.choice(slots, (4, 23 - at))
    changed.gap[:, at + 1 :] = rng.integers(0, 30, (4, 23 - at))
    changed.segment[:, at + 1 :] = rng.integers(1, 5, (4, 23 - at))
    changed.target[:] = rng.choice(slots, (4, 24))
    queries = jax.jit(EqIDs.queries)
    one, two = (queries(model, Batch.of(x)) for x in (arrays, changed))
    assert_close(two[:, : at + 1], one[:, : at + 1], "float32")
    # Another segment of the row, before it, changes nothing either.
    earlier = arrays.segment[:, at : at + 1] != arrays.segment
    earlier &= np.arange(24) < at
    changed = copy.deepcopy(arrays)
    changed.items[earlier] = rng.choice(slots, int(earlier.sum()))
    three = queries(model, Batch.of(changed))
    assert_close(three[:, at], one[:, at], "float32")


def test_a_target_is_never_among_its_own_inputs(dataset: Dataset) -> None:
    batch = TrainingBatches(dataset, BatchConfig(24, 4)).batch(0)
    one = tiny_model(dataset).loss(Batch.of(batch))
    hidden = dataclasses.replace(batch, target=np.full_like(batch.target, -1))
    none = tiny_model(dataset).loss(Batch.of(hidden))
    assert int(one[1]) == int(np.sum(batch.target >= 0))
    assert (float(none[0]), int(none[1])) == (0.0, 0)


def test_what_decays_is_matrices_but_no_table_of_items(dataset: Dataset) -> None:
    params, _ = split(tiny_model(dataset), "all", FLOAT32)
    mask = decays(params)
    assert mask.llama.blocks.wq and mask.input_adapter.w_in and mask.gap_table
    assert not mask.llama.norm and not mask.llama.blocks.ffn_norm
    assert not mask.softmax.table and not mask.llama.embedding
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
        optimizer = make_optimizer(StepConfig("all", recipe, grad_clip=clip))
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


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules(schedule: Schedule) -> None:
    recipe = dataclasses.replace(
        NANO_RECIPE,
        num_steps=100,
        warmup_steps=20,
        learning_rate=0.5,
        schedule=schedule,
    )

    def rate(step: int) -> float:
        return float(make_schedule(recipe)(jnp.int32(step)))

    values = [rate(step) for step in (0, 10, 20, 60, 100)]
    middle = {"cosine": (0.5 + 0.005) / 2, "linear": (0.5 + 0.005) / 2, "constant": 0.5}
    last = 0.5 if schedule == "constant" else 0.005
    np.testing.assert_allclose(
        values, [0.0, 0.25, 0.5, middle[schedule], last], rtol=1e-5
    )
    quarter = {"cosine": 0.4275, "linear": 0.37625, "constant": 0.5}[schedule]
    np.testing.assert_allclose(rate(40), quarter, rtol=1e-3)


@pytest.mark.parametrize("items", ["dense", "lazy_adam"])
def test_llama_has_a_rate_of_its_own(items: ItemOptimizer, dataset: Dataset) -> None:
    """Half of the rate is half of the move, and others move as they did."""
    recipe = dataclasses.replace(NANO_RECIPE, num_steps=10, warmup_steps=0)
    params, frozen = split(tiny_model(dataset), "all", FLOAT32)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 8)).batch(0))
    everything = jnp.arange(dataset.info.num_clusters)
    active = None if items == "dense" else everything

    def moved(rate: float | None) -> EqIDs:
        config = StepConfig(
            "all", recipe, item_optimizer=items, llama_learning_rate=rate
        )
        begin = start(params, make_optimizer(config))
        state, _ = make_step(config)(begin, frozen, batch, run_keys(0)[1], active)
        return jax.tree.map(jnp.subtract, state.params, params)

    one, half = moved(None), moved(recipe.learning_rate / 2)
    assert_close(
        jax.tree.map(lambda x: x / 2, one.llama.blocks), half.llama.blocks, "gradient"
    )
    assert_close(one.softmax, half.softmax, "gradient")
    assert_close(one.input_adapter, half.input_adapter, "gradient")


@pytest.mark.parametrize("items", ["dense", "lazy_adam"])
def test_parts_of_a_batch_sum_to_the_whole(
    items: ItemOptimizer, dataset: Dataset
) -> None:
    """Though parts have different numbers of targets."""
    recipe = dataclasses.replace(NANO_RECIPE, num_steps=10, warmup_steps=0)
    config = StepConfig("all", recipe, item_optimizer=items)
    params, frozen = split(tiny_model(dataset), "all", FLOAT32)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 8)).batch(0))
    batch = eqx.tree_at(lambda b: b.target, batch, batch.target.at[1::4, 3:].set(-1))
    everything = jnp.arange(dataset.info.num_clusters)
    active = None if items == "dense" else everything
    ends = []
    for accumulate in (1, 4):
        step = make_step(dataclasses.replace(config, accumulate=accumulate))
        begin = start(params, make_optimizer(config))
        ends.append(step(begin, frozen, batch, run_keys(0)[1], active))
    (whole, measured), (parts, of_parts) = ends
    assert_close(of_parts, measured, "gradient")
    # Adam divides the gradient by itself: its moments say more than its moves.
    assert_close(parts.optimizer, whole.optimizer, "gradient")


def test_remat_changes_no_gradient(dataset: Dataset) -> None:
    params, frozen = split(tiny_model(dataset), "all", FLOAT32)
    batch = Batch.of(TrainingBatches(dataset, BatchConfig(24, 4)).batch(0))

    def grads(remat: bool) -> EqIDs:
        def loss(params: EqIDs) -> jax.Array:
            return eqx.combine(params, frozen).loss(batch, remat=remat)[0]

        return jax.jit(jax.grad(loss))(params)

    assert_close(grads(True), grads(False), "gradient")
