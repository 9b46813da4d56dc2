"""Row-sparse optimizers against dense Adam, numpy and the dense step."""

import dataclasses
import json
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, run_python
from hypothesis import given, settings, strategies as st
from models import FLOAT32, tiny_model

from eqids.config import NANO_RECIPE, Recipe
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit import sparse
from eqids.fit.active_clusters import ClusterLists
from eqids.fit.dataset_clusters import cluster_lists
from eqids.fit.optimizer import make_optimizer
from eqids.fit.sparse import apply_updates, lazy_adam, rowwise_adagrad
from eqids.fit.step import make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch, EqIDs
from eqids.runs.run_keys import run_keys

CLUSTERS, ROOM, WIDTH, CAPACITY, STEPS = 6, 3, 2, 4, 7


class Draw(NamedTuple):
    """Some steps of gradients in some clusters."""

    active: np.ndarray
    table: np.ndarray
    bias: np.ndarray


@st.composite
def draws(draw: st.DrawFn) -> Draw:
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    active = np.full((STEPS, CAPACITY), CLUSTERS, np.int32)
    for row in active:
        count = rng.integers(0, CAPACITY + 1)
        row[:count] = np.sort(rng.choice(CLUSTERS, count, replace=False))
    table = rng.standard_normal((STEPS, CAPACITY, ROOM, WIDTH)).astype(np.float32)
    bias = rng.standard_normal((STEPS, CAPACITY, ROOM)).astype(np.float32)
    table[active == CLUSTERS], bias[active == CLUSTERS] = 0, 0
    return Draw(active, table, bias)


def spread(blocks: np.ndarray, active: np.ndarray) -> np.ndarray:
    """The dense gradient that blocks stand for."""
    out = np.zeros((CLUSTERS + 1, *blocks.shape[1:]), np.float32)
    np.add.at(out, active, blocks)
    return out[:CLUSTERS]


def first_tables() -> dict[str, jax.Array]:
    return {
        "table": jnp.ones((CLUSTERS, ROOM, WIDTH)),
        "bias": jnp.ones((CLUSTERS, ROOM)),
    }


def run(optimizer: optax.GradientTransformationExtraArgs, drawn: Draw) -> tuple:
    """Every step's tables, and the last state."""
    params = first_tables()
    state = optimizer.init(params)

    def step(carry: tuple, drawn: Draw) -> tuple:
        params, state = carry
        blocks = {"table": drawn.table, "bias": drawn.bias}
        updates, state = optimizer.update(blocks, state, params, active=drawn.active)
        params = apply_updates(params, updates, drawn.active)
        return (params, state), params

    (_, state), tables = jax.lax.scan(step, (params, state), drawn)
    return tables, state


def scaled(rows: optax.GradientTransformationExtraArgs) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(1.5), rows, optax.scale_by_learning_rate(0.1)
    )


LAZY = jax.jit(lambda drawn: run(scaled(lazy_adam(0.9, 0.98)), drawn))
ADAGRAD = jax.jit(lambda drawn: run(scaled(rowwise_adagrad()), drawn))
DENSE = scaled(optax.scale_by_adam(0.9, 0.98))  # type: ignore[arg-type]


@settings(max_examples=25)
@given(draws())
def test_lazy_adam_is_dense_adam_but_for_the_moves_of_inactive_clusters(
    drawn: Draw,
) -> None:
    """Moments of active clusters are equal at every step, and so are their moves."""
    tables, (_, lazy, _) = LAZY(drawn)
    params = first_tables()
    state = DENSE.init(params)
    for step, active in enumerate(drawn.active):
        grads = {
            name: jnp.asarray(spread(blocks[step], active))
            for name, blocks in (("table", drawn.table), ("bias", drawn.bias))
        }
        updates, state = DENSE.update(grads, state, params)
        here = np.isin(np.arange(CLUSTERS), active)
        moved = optax.apply_updates(params, updates)
        params = {
            name: jnp.where(here.reshape(-1, *[1] * (new.ndim - 1)), new, params[name])
            for name, new in moved.items()
        }
        assert_close({n: x[step] for n, x in tables.items()}, params, "float32")
    age = STEPS - np.asarray(lazy.seen)
    for name, decay, dense in (("mu", 0.9, state[1].mu), ("nu", 0.98, state[1].nu)):
        for leaf, moment in getattr(lazy, name).items():
            caught_up = decay ** age.reshape(-1, *[1] * (moment.ndim - 1)) * moment
            assert_close(caught_up, dense[leaf], "float32")


@settings(max_examples=25)
@given(draws())
def test_adagrad_is_what_numpy_says_row_by_row(drawn: Draw) -> None:
    tables, (_, state, _) = ADAGRAD(drawn)
    params = {name: np.array(x) for name, x in first_tables().items()}
    total = np.zeros((CLUSTERS, ROOM)), np.zeros((CLUSTERS, ROOM))
    for step, active in enumerate(drawn.active):
        table = spread(drawn.table[step], active)
        bias = spread(drawn.bias[step], active)
        norm = np.sqrt((table**2).sum() + (bias**2).sum())
        table, bias = (x * min(1.0, 1.5 / max(norm, 1e-9)) for x in (table, bias))
        total = total[0] + (table**2).mean(axis=2), total[1] + bias**2
        params["table"] -= 0.1 * table / (np.sqrt(total[0])[..., None] + 1e-8)
        params["bias"] -= 0.1 * bias / (np.sqrt(total[1]) + 1e-8)
        assert_close({n: x[step] for n, x in tables.items()}, params, "float32")
    assert_close(state.total, {"table": total[0], "bias": total[1]}, "float32")
    assert state.total["table"].shape == (CLUSTERS, ROOM)


def test_both_ways_to_work_in_place_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    array = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    add = jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)
    index = jnp.array([1, 3, 5, 5])

    def moved() -> jax.Array:
        return sparse.in_place(array, index, lambda block, i: 2 * block + add[i])

    expected = np.array(array)
    expected[[1, 3]] = 2 * expected[[1, 3]] + np.asarray(add)[:2]
    assert_close(moved(), expected, "float32")

    def other(*args: jax.Array, cpu: object, default: object) -> jax.Array:
        return default(*args)  # type: ignore[operator]

    monkeypatch.setattr(jax.lax, "platform_dependent", other)
    assert_close(moved(), expected, "float32")


RECIPE = dataclasses.replace(
    NANO_RECIPE, num_steps=20, learning_rate=1e-2, batch_size=4, seq_len=6
)


@pytest.mark.parametrize("tied", [True, False])
def test_blocks_of_the_model_are_its_dense_gradient(
    tied: bool, dataset: Dataset
) -> None:
    model = tiny_model(dataset, tied_items=tied)
    arrays = TrainingBatches(dataset, BatchConfig(6, 4)).batch(0)
    batch, info = Batch.of(arrays), dataset.info
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    lists = ClusterLists(info.num_clusters, info.cluster_size, 1, info.num_clusters)
    listed = lists.of_batch(arrays)

    @jax.jit
    def dense(params: EqIDs) -> EqIDs:
        return jax.grad(lambda p: eqx.combine(p, rest).loss(batch)[0])(params)

    @jax.jit
    def blocks(active: jax.Array) -> dict[str, jax.Array]:
        handles, ints = eqx.partition(
            model.handles(batch, active), eqx.is_inexact_array
        )
        grads = jax.grad(lambda h: model.loss(batch, active=eqx.combine(h, ints))[0])(
            handles
        )
        return model.table_gradients(batch, eqx.combine(grads, ints))

    whole, found = dense(params), blocks(jnp.asarray(listed))
    expected = {"table": whole.softmax.table, "bias": whole.softmax.bias}
    if not tied:
        expected["input_table"] = whole.input_table
    assert found.keys() == expected.keys()
    cluster = listed[listed < info.num_clusters]
    untouched = np.setdiff1d(np.arange(info.num_clusters), cluster)
    for name, gradient in expected.items():
        assert_close(found[name][: len(cluster)], gradient[cluster], "gradient")
        assert not np.any(gradient[untouched])
        assert np.any(gradient)


def losses(
    dataset: Dataset, items: str, recipe: Recipe = RECIPE, capacity: int | None = None
) -> tuple[list[float], int]:
    params, frozen = split(tiny_model(dataset), "all", FLOAT32)
    config = StepConfig("all", recipe, item_optimizer=items)  # type: ignore[arg-type]
    state, (_, key) = start(params, make_optimizer(config)), run_keys(0)
    step = make_step(config)
    lists = cluster_lists(dataset, recipe, 1)
    if capacity is not None:
        lists = dataclasses.replace(lists, capacity=capacity)
    batches = TrainingBatches(dataset, BatchConfig(recipe.seq_len, recipe.batch_size))
    out = []
    for k in range(recipe.num_steps):
        arrays = batches.batch(k)
        active = None if items == "dense" else jnp.asarray(lists.of_batch(arrays))
        state, metrics = step(state, frozen, Batch.of(arrays), key, active)
        out.append([float(metrics.loss), float(metrics.grad_norm)])
    return out, step._cache_size()


def test_with_all_clusters_active_lazy_adam_is_the_dense_step(
    dataset: Dataset,
) -> None:
    """Same losses and gradient norms, and one compilation each."""
    recipe = dataclasses.replace(RECIPE, batch_size=16, num_steps=6)
    dense, lazy = (losses(dataset, items, recipe) for items in ("dense", "lazy_adam"))
    assert dense[1] == lazy[1] == 1
    assert_close(lazy[0], dense[0], "mesh")


def test_more_clusters_than_expected_cost_a_compilation_and_lose_nothing(
    dataset: Dataset,
) -> None:
    small = dataclasses.replace(RECIPE, batch_size=1, seq_len=4)
    roomy, tight = (losses(dataset, "adagrad", small, c) for c in (8, 3))
    assert (roomy[1], tight[1]) == (1, 2)
    assert_close(tight[0], roomy[0], "float32")


MESH = """
import sys
sys.path.insert(0, "tests")
import dataclasses, json, re
from functools import partial
from pathlib import Path
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from conftest import make_dataset
from eqids.config import LLAMA_PRESETS, NANO_RECIPE, ModelConfig
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.optimizer import make_optimizer
from eqids.runs.new_model import initial_model
from eqids.runs.run_keys import run_keys
from eqids.fit.step import make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.fit.dataset_clusters import cluster_lists
from eqids.model import Batch, EqIDs
from sharding import Placement, beside, make_mesh, named_layout, num_shards

dataset = make_dataset(Path(FOLDER) / "mesh", num_clusters=16, cluster_size=4,
                       num_items=50)
recipe = dataclasses.replace(NANO_RECIPE, num_steps=5, batch_size=8, seq_len=6)
batches = TrainingBatches(dataset, BatchConfig(6, 8))
layout = named_layout("fsdp", 8)
mesh = Placement(layout, make_mesh(layout))
llama = dataclasses.replace(LLAMA_PRESETS["nano"], num_layers=1)

def sizes(num_clusters):
    return ModelConfig(llama, num_clusters, 4, item_width=8, adapter="linear",
                       tied_items=False)

def losses(put, items):
    with put.active():
        model = initial_model(sizes(16), dataset, None, jax.random.key(0))
        params, frozen = split(put(model), "all", jnp.float32)
        config = StepConfig("all", recipe, item_optimizer=items)
        state, (_, key) = start(params, make_optimizer(config)), run_keys(0)
        step = make_step(config)
        table, out = params.softmax.table, []
        lists = cluster_lists(dataset, recipe, num_shards(table))
        for k in range(5):
            arrays = batches.batch(k)
            active = beside(lists.of_batch(arrays), table)
            batch = put(Batch.of(arrays))
            state, metrics = step(state, frozen, batch, key, active)
            out.append([float(metrics.loss), float(metrics.grad_norm)])
        moments = [str(jax.typeof(x).sharding.spec) for x in
                   jax.tree.leaves(state.optimizer) if x.shape == (16, 4, 8)]
        assert step._cache_size() == 1
        return out, moments

def collectives(num_clusters):
    with mesh.active():
        model = eqx.filter_eval_shape(EqIDs, sizes(num_clusters), key=jax.random.key(0))
        params, frozen = eqx.filter_eval_shape(split, mesh(model), "all", jnp.float32)
        config = StepConfig("all", recipe, item_optimizer="lazy_adam")
        optimizer = make_optimizer(config)
        state = jax.eval_shape(partial(start, optimizer=optimizer), params)
        batch = mesh(jax.eval_shape(lambda: Batch.zeros(8, 6)))
        active = jax.ShapeDtypeStruct((8 * 16,), jnp.int32)
        active = beside(active, params.softmax.table)
        step = make_step(config)
        key = jax.eval_shape(lambda: jax.random.key(0))
        text = step.lower(state, frozen, batch, key, active).compile().as_text()
    moved = re.findall(r"= (.*) (?:all-gather|all-reduce|reduce-scatter|all-to-all|"
                       r"collective-permute)(?:-start)?[(]", text)
    return len(moved), sorted(re.findall(r"[0-9,]+", " ".join(moved)))

found = {}
for items in ("lazy_adam", "adagrad"):
    one, _ = losses(Placement(None, None), items)
    eight, moments = losses(mesh, items)
    found[items] = one, eight, moments
found["collectives"] = collectives(256) == collectives(1024), collectives(256)[0]
print(json.dumps(found))
"""


@pytest.mark.long
def test_eight_devices_train_as_one_and_move_nothing_that_grows(
    tmp_path: object,
) -> None:
    """Same losses; collectives of one size whatever the catalog's."""
    code = MESH.replace("FOLDER", repr(str(tmp_path)))
    found = json.loads(run_python(code).splitlines()[-1])
    for items in ("lazy_adam", "adagrad"):
        one, eight, moments = found[items]
        assert_close(eight, one, "mesh")
        assert all("fsdp" in spec for spec in moments)
    assert len(found["lazy_adam"][2]) == 4  # two moments of two tables
    same, count = found["collectives"]
    assert same and count > 5
