"""Gradients, losses and parameters on eight devices are those of one."""

import json

import pytest
from conftest import TOLERANCE, run_python

LAYOUTS = ["8x1x1", "2x1x4", "1x8x1", "2x2x2"]

SCRIPT = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from functools import partial
from eqids.config import LlamaConfig, LoraConfig, ModelConfig
from eqids.fit.step import split
from eqids.model import Batch, EqIDs
from sharding import Placement, make_mesh, named_layout

STRATEGY, FROZEN = sys.argv[1:3]
# Clusters that no mesh divides; histories of several users in a row.
llama = LlamaConfig(32, 2, 4, 4, 8, 64, 64, tied=True)
lora = LoraConfig(4, 8.0) if STRATEGY == "lora" else None
sizes = ModelConfig(llama, 11, 5, item_width=16, lora=lora, request_time=True)
rng = np.random.default_rng(0)
shape = (16, 12)

def random_batch():
    segment = np.sort(rng.integers(1, 4, shape), axis=1).astype(np.int32)
    first = np.maximum.accumulate(
        np.where(np.diff(segment, axis=1, prepend=0) > 0, np.arange(12), 0), axis=1
    )
    slots = rng.integers(0, 55, (2, *shape)).astype(np.int32)
    return Batch(
        tokens=np.zeros(shape, np.int32), items=slots[0],
        gap=rng.integers(0, 36, shape).astype(np.int32), segment=segment,
        position=(np.arange(12) - first).astype(np.int32),
        target=np.where(rng.random(shape) < .8, slots[1], -1).astype(np.int32),
        request_gap=rng.integers(0, 36, shape).astype(np.int32),
    )

batches = [random_batch() for _ in range(5)]
model = EqIDs(sizes, key=jax.random.key(0))
# Low-rank changes start at zero, where their gradients would be easy.
model = jax.tree.map(
    lambda x: x + 0.02 * rng.standard_normal(x.shape).astype(np.float32)
    if x.dtype == jnp.float32 else x, model)

def run(name, at=None):
    layout = None if name is None else named_layout(name, 8)
    put = Placement(layout, None if layout is None else make_mesh(layout))
    with put.active():
        params, frozen = split(put(model), STRATEGY, FROZEN)

        @jax.jit
        def step(params, frozen, batch):
            def mean_loss(params):
                model = eqx.combine(params, frozen)
                total, count = model.loss(batch, remat=name is None)
                return total / count
            loss, grads = jax.value_and_grad(mean_loss)(params)
            return loss, grads, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        losses, states, gradients = [], [], []
        own = params
        for batch in batches:
            states.append(jax.tree.map(np.asarray, own))
            loss, grads, own = step(own, frozen, put(batch))
            losses.append(float(loss))
            gradients.append(grads)
        if at is not None:
            gradients = [step(put(s), frozen, put(b))[1] for s, b in zip(at, batches)]
        assert step._cache_size() == 1, "compiled more than once"
        last = jax.tree.map(np.asarray, own)
        return losses, states, [jax.tree.map(np.asarray, g) for g in gradients], last

def far(a, b):
    # Clusters that make a mesh divide come last, and have no gradient.
    def one(x, y):
        assert not np.any(x[len(y):])
        scale = np.linalg.norm(y) or 1.0
        return float(np.linalg.norm(x[: len(y)] - y) / scale)
    return max(jax.tree.leaves(jax.tree.map(one, a, b)))

losses, states, gradients, last = run(None)
found = {"num_leaves": len(jax.tree.leaves(last)), "moved": far(last, states[0])}
for name in LAYOUTS:
    l, _, g, p = run(name, states)
    found[name] = {
        "loss": float(np.max(np.abs(np.array(l) - losses))),
        "gradient": max(far(x, y) for x, y in zip(g, gradients)),
        "params": far(p, last),
    }
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("strategy", "frozen"),
    [
        pytest.param("heads", "float32", marks=pytest.mark.long),
        pytest.param("lora", "float32", marks=pytest.mark.long),
        ("all", "float32"),
        pytest.param("lora", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_eight_devices_train_as_one(strategy: str, frozen: str) -> None:
    """Sums in another order can round to another bfloat16 neighbour."""
    argv = ["", strategy, frozen]
    code = f"import sys; sys.argv = {argv!r}\nLAYOUTS = {LAYOUTS!r}\n" + SCRIPT
    found = json.loads(run_python(code).splitlines()[-1])
    assert found["moved"] > 1e-3
    most = TOLERANCE["mesh" if frozen == "float32" else frozen]
    for name in LAYOUTS:
        assert found[name]["loss"] < most, (name, found)
        assert found[name]["gradient"] < most, (name, found)
        assert found[name]["params"] < most, (name, found)


PARTS = """
from eqids.config import NANO_RECIPE
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import make_step, start
from eqids.fit.step_config import StepConfig
from sharding import beside
import dataclasses

recipe = dataclasses.replace(NANO_RECIPE, num_steps=10, warmup_steps=0)
ends = {}
for items in ("dense", "lazy_adam"):
    for name, accumulate in ((None, 1), ("2x2x2", 4)):
        layout = None if name is None else named_layout(name, 8)
        put = Placement(layout, None if layout is None else make_mesh(layout))
        config = StepConfig(
            "all", recipe, item_optimizer=items, accumulate=accumulate
        )
        with put.active():
            params, frozen = split(put(model), "all", "float32")
            state, active = start(params, make_optimizer(config)), None
            if items != "dense":
                num = params.softmax.table.shape[0]
                active = beside(np.arange(num, dtype=np.int32), params.softmax.table)
            step = make_step(config)
            args = state, frozen, put(batches[0]), jax.random.key(0), active
            got, metrics = step(*args)
            got = jax.tree.map(np.asarray, (got.optimizer, metrics))
        ends[name] = got
    print(json.dumps(max(jax.tree.leaves(jax.tree.map(
        lambda x, y: float(np.linalg.norm(x[: len(y)] - y) / (np.linalg.norm(y) or 1.0))
        if np.ndim(y) else abs(float(x - y)) / max(1.0, abs(float(y))),
        ends["2x2x2"], ends[None])))))
"""


@pytest.mark.long
def test_parts_of_a_batch_on_eight_devices_sum_to_the_whole_on_one() -> None:
    """Adam's moments and the metrics, with dense and with row-sparse item tables."""
    setup = SCRIPT[: SCRIPT.index("def run(name")]
    code = "import sys; sys.argv = ['', 'all', 'float32']\n" + setup + PARTS
    for line in run_python(code).splitlines()[-2:]:
        assert float(line) < 1e-5
