"""Words, layouts, and one code path from no mesh to eight devices."""

import dataclasses
import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

import eqids.model
import sharding
from eqids.config import LLAMA_PRESETS, ModelConfig
from eqids.model import EqIDs
from sharding import LayoutError, named_layout, place, words


class Inner(eqx.Module):
    w: Float[Array, "ffn width"]
    b: Float[Array, " ffn"] | None


class Outer(eqx.Module):
    inner: tuple[Inner, ...]
    v: Float[Array, "width heads"]


def outer(ffn: int = 3) -> Outer:
    inner = Inner(jnp.zeros((ffn, 4)), None), Inner(jnp.ones((3, 4)), jnp.ones(3))
    return Outer(inner, jnp.zeros((4, 2)))


def test_words_come_from_annotations_optional_ones_too() -> None:
    found = words(outer())
    assert found.inner[0].w.names == ("ffn", "width")
    assert found.inner[0].b is None
    assert found.inner[1].b.names == ("ffn",)
    assert found.inner[1].b.field == "inner[1].b"


def test_a_word_has_one_size_and_an_array_its_axes() -> None:
    with pytest.raises(ValueError, match=r"'ffn' is 3 in inner\[1\].w and 5 in inner"):
        words(outer(ffn=5))
    broken = eqx.tree_at(lambda o: o.v, outer(), jnp.zeros(4))
    with pytest.raises(ValueError, match="v has shape"):
        words(broken)
    with pytest.raises(ValueError, match="no jaxtyping annotation"):
        words({"w": jnp.zeros(2)})


def test_every_array_of_the_model_has_words_of_the_legend() -> None:
    rows = [line.split("|")[1] for line in (eqids.model.__doc__ or "").splitlines()
            if line.startswith("| `")]  # fmt: skip
    legend = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert {"batch", "kv_heads", "cluster", "place", "gaps"} <= legend
    for adapter in ("mlp", "linear"):
        for tied in (True, False):
            config = ModelConfig(
                LLAMA_PRESETS["8b"], 10, 7, adapter=adapter, tied_items=tied
            )
            model = eqx.filter_eval_shape(EqIDs, config, key=jax.random.key(0))
            for axes in jax.tree.leaves(words(model)):
                assert set(axes.names) <= legend, axes


def test_layouts_map_words_to_mesh_axes() -> None:
    layout = named_layout("tensor", 8)
    assert layout.mesh_shape == (1, 4, 2)
    assert layout.spec(("heads", "head", "width"), (4, 3, 8), "wq") == PartitionSpec(
        "tensor", None, "fsdp"
    )
    assert layout.spec(("batch", "seq"), (8, 5), "items") == PartitionSpec("fsdp", None)
    data = named_layout("data", 4)
    names = ("cluster", "place")
    assert data.padded(names, (5, 3)) == (8, 3)
    assert data.spec(names, (8, 3), "bias") == PartitionSpec("data", None)
    assert named_layout("2x2x2", 8).mesh_shape == (2, 2, 2)
    assert len(sharding.mesh_shapes(8)) == 10


def test_a_layout_that_does_not_fit_names_field_word_and_numbers() -> None:
    layout = named_layout("fsdp", 8)
    with pytest.raises(LayoutError, match="'batch' of items 8 ways.*size 12"):
        layout.spec(("batch", "seq"), (12, 3), "items")
    with pytest.raises(LayoutError, match="wanted one of data, fsdp, tensor"):
        named_layout("rings", 8)
    with pytest.raises(LayoutError, match="'2x2x1' is for 4 devices, there are 8"):
        named_layout("2x2x1", 8)
    with pytest.raises(LayoutError, match="even"):
        named_layout("tensor", 3)
    with pytest.raises(LayoutError, match="needs 64 devices, there are"):
        sharding.make_mesh(named_layout("data", 64))


def test_layouts_are_frozen_values() -> None:
    layout = named_layout("data", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.name = "other"  # type: ignore[misc]
    assert layout == named_layout("data", 2) != named_layout("data", 4)
    assert hash(layout) == hash(named_layout("data", 2))


LOSSES = """
import json, sys
import equinox as eqx, jax, jax.numpy as jnp
from pathlib import Path
from conftest import make_dataset
from eqids.config import LLAMA_PRESETS, ML_100K, TrainConfig
from eqids.runs.recipe import resolved
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.optimizer import make_optimizer
from eqids.runs.new_model import initial_model, model_config
from eqids.runs.run_keys import run_keys
from eqids.checkpoints import restore, save
from eqids.fit.step import make_step, split, start, stored_shapes
from eqids.fit.step_config import StepConfig
from dataclasses import replace
from eqids.model import Batch
import numpy as np
import sharding
from sharding import Placement

sys.path.insert(0, "tests")
# The default recipe; a prime number of clusters, as MovieLens-100K has.
dataset = make_dataset(Path(FOLDER) / NAME, num_clusters=7, num_items=40)
config = resolved(TrainConfig(data_dir=dataset.path), ML_100K)
recipe = config.recipe
sizes = model_config(config, dataset, LLAMA_PRESETS["nano"])
step_config = StepConfig("all", recipe)
optimizer = make_optimizer(step_config)
batches = TrainingBatches(dataset, BatchConfig(recipe.seq_len, recipe.batch_size))

folder = Path(FOLDER) / "checkpoints"

def host(x):
    return np.zeros(x.shape, x.dtype)

def losses(put, number):
    with put.active():
        first, key = run_keys(0)
        model = initial_model(sizes, dataset, None, first)
        stored = stored_shapes(model, "all", optimizer)
        params, frozen = split(put(model), "all", jnp.dtype("float32"))
        state = start(params, optimizer)
        step = make_step(replace(step_config, remat=put.layout is not None))
        out = []
        for k in range(5):
            state, metrics = step(state, frozen, put(Batch.of(batches.batch(k))), key)
            out.append(float(metrics.loss))
        assert step._cache_size() == 1, "compiled more than once"
        ranker = make_ranker(recipe.seq_len, jnp.dtype("float32"), put)
        model = eqx.combine(state.params, frozen)
        result = evaluate(model, dataset, "valid", ranker)
        leaves = jax.tree.leaves(state.params)
        save(folder, number, state, {}, stored)
        back = restore(folder / str(number), state, shapes=stored)
        for was, now in zip(jax.tree.leaves(state), jax.tree.leaves(back)):
            assert was.sharding == now.sharding and bool(jnp.all(was == now))
        # What eight devices saved, one device reads, and nothing of the padding.
        whole = restore(folder / str(number), jax.tree.map(host, stored))
        table = np.asarray(state.params.softmax.table)
        assert len(whole.params.softmax.table) == 7
        assert np.array_equal(whole.params.softmax.table, table[:7])
        specs = sorted({str(jax.typeof(leaf).sharding.spec) for leaf in leaves})
        return {"loss": out, "nll": result["nll"], "specs": specs}

def on(name, devices, number):
    layout = sharding.named_layout(name, devices)
    return losses(Placement(layout, sharding.make_mesh(layout)), number)

found = {"none": losses(Placement(None, None), 1), "one": on("data", 1, 2)}
for number, name in enumerate(("data", "fsdp", "tensor"), start=3):
    found[f"{name}8"] = on(name, 8, number)
print(json.dumps(found))
"""


@pytest.mark.long
def test_first_losses_are_the_same_without_a_mesh_and_on_eight_devices(
    tmp_path: object,
) -> None:
    code = LOSSES.replace("FOLDER", repr(str(tmp_path))).replace("NAME", "'mesh'")
    code = "import sys; sys.path.insert(0, 'tests')\n" + code
    found = json.loads(run_python(code).splitlines()[-1])
    for name, result in found.items():
        assert_close(result["loss"], found["none"]["loss"], "mesh")
        assert_close(result["nll"], found["none"]["nll"], "mesh")
        split_over = "".join(result["specs"])
        assert ("fsdp" in split_over) == (name in ("fsdp8", "tensor8")), name
        assert ("tensor" in split_over) == (name == "tensor8"), name
    assert found["none"]["loss"][0] != pytest.approx(found["none"]["loss"][4], abs=1e-4)


def test_ops_do_nothing_special_without_a_mesh() -> None:
    table, index = jnp.arange(12.0).reshape(4, 3), jnp.array([[0, 3], [1, 1]])
    assert sharding.like(table) is None
    assert sharding.gathered(table) is table
    np.testing.assert_array_equal(sharding.lookup(table, index), table[index])
    found = sharding.per_shard(lambda w, x: x @ w, table, jnp.ones((2, 4)))
    np.testing.assert_array_equal(found, jnp.ones((2, 4)) @ table)
    moved = place(outer(), None, None)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(moved))
