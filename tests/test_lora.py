"""LoRA: what it computes, what it trains, and runs that use it."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import assert_close, run_python
from models import TINY, tiny_model
from pytest import CaptureFixture
from runs import once, refused, small

import eqids
from convert import load_llama
from eqids import evaluate, train
from eqids.checkpoints import read_manifest
from eqids.config import (
    LORA_TARGETS,
    ML_100K,
    NANO_RECIPE,
    LoraConfig,
    LoraTarget,
    ModelConfig,
    TrainConfig,
    UserError,
    from_json,
    to_json,
)
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.optimizer import decays, make_optimizer
from eqids.fit.step import make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch, EqIDs, Llama
from eqids.model.lora import FIELDS
from eqids.runs.recipe import checked, resolved
from sharding import words

LORA = LoraConfig(rank=3, alpha=5.0)
SOME: tuple[LoraTarget, ...] = ("q", "v")
MODULES = {
    "q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn",
    "gate": "mlp", "up": "mlp", "down": "mlp",
}  # fmt: skip


def base(folder: Path, seed: int = 0) -> transformers.LlamaForCausalLM:
    """A small Llama with grouped queries, of transformers and in a folder."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, intermediate_size=20, vocab_size=11,
        initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return model


def changed(llama: Llama, seed: int = 1) -> Llama:
    """The Llama with random A and B."""
    blocks = llama.blocks
    if blocks.lora is None:
        blocks = blocks.with_lora(LORA, key=jax.random.key(seed))
    rng = np.random.default_rng(seed)
    lora = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), blocks.lora
    )
    return eqx.tree_at(
        lambda m: m.blocks, llama, eqx.tree_at(lambda b: b.lora, blocks, lora)
    )


def test_logits_are_those_of_transformers_with_merged_weights(tmp_path: Path) -> None:
    model = base(tmp_path)
    llama = changed(load_llama(tmp_path))
    assert llama.blocks.lora is not None and len(llama.blocks.lora) == 7
    ids = np.random.default_rng(0).integers(0, 11, (3, 9))
    with torch.no_grad():
        untouched = model(torch.tensor(ids)).logits.numpy()
        for target in LORA_TARGETS:
            change = llama.blocks.lora[FIELDS[target]]
            for layer, block in enumerate(model.model.layers):
                a, b = np.array(change.a[layer]), np.array(change.b[layer])
                linear = getattr(getattr(block, MODULES[target]), f"{target}_proj")
                delta = b.reshape(-1, LORA.rank) @ a.reshape(LORA.rank, -1)
                linear.weight += torch.tensor(LORA.alpha / LORA.rank * delta)
        merged = model(torch.tensor(ids)).logits.numpy()
    assert np.abs(merged - untouched).max() > 0.1
    assert_close(llama.logits(jnp.asarray(ids)), merged, "logits")


def test_changes_have_the_words_of_the_matrices_they_change() -> None:
    config = ModelConfig(TINY, 2, 2, item_width=4, lora=LORA)
    model = eqx.filter_eval_shape(EqIDs, config, key=jax.random.key(0))
    lora = words(model).llama.blocks.lora
    found = {name: (change.a.names, change.b.names) for name, change in lora.items()}
    up = ("layer", "rank", "width"), ("layer", "ffn", "rank")
    kv = ("layer", "rank", "width"), ("layer", "kv_heads", "head", "rank")
    assert found == {
        "wq": (("layer", "rank", "width"), ("layer", "heads", "head", "rank")),
        "wk": kv,
        "wv": kv,
        "wo": (("layer", "rank", "heads", "head"), ("layer", "width", "rank")),
        "w_gate": up,
        "w_up": up,
        "w_down": (("layer", "rank", "ffn"), ("layer", "width", "rank")),
    }
    wrong = eqx.tree_at(
        lambda m: m.llama.blocks.lora["wo"].a,
        model,
        jax.ShapeDtypeStruct((2, 3, 5, 8), jnp.float32),
    )
    with pytest.raises(ValueError, match=r"'heads' is 5 in llama.*'wo'\].a"):
        words(wrong)


@pytest.fixture
def batch(dataset: Dataset) -> Batch:
    return Batch.of(TrainingBatches(dataset, BatchConfig(24, 8)).batch(0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_run_starts_as_the_base_to_the_bit(
    dataset: Dataset, batch: Batch, dtype: jnp.dtype
) -> None:
    queries = eqx.filter_jit(EqIDs.queries)
    plain, lora = tiny_model(dataset), tiny_model(dataset, lora=LORA)
    one, two = (queries(m, batch, dtype=dtype) for m in (plain, lora))
    assert np.array_equal(one, two)
    moved = eqx.tree_at(lambda m: m.llama, lora, changed(lora.llama))
    assert not np.array_equal(queries(moved, batch, dtype=dtype), two)


def test_only_changes_and_heads_learn(dataset: Dataset, batch: Batch) -> None:
    config = dataclasses.replace(LORA, targets=SOME)
    model = tiny_model(dataset, lora=config)
    before = jax.tree.map(np.array, model)
    recipe = dataclasses.replace(NANO_RECIPE, num_steps=8, learning_rate=1e-2)
    step_config = StepConfig("lora", recipe, "bfloat16", "bfloat16")
    params, frozen = split(model, "lora", jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    llama = jax.tree.leaves(frozen.llama)
    assert len(llama) == 11 and {x.dtype for x in llama} == {jnp.dtype("bfloat16")}
    assert all(jax.tree.leaves(decays(params).llama))
    state = start(params, make_optimizer(step_config))
    routes = jax.tree_util.tree_leaves_with_path((state.params, state.optimizer))
    names = [jax.tree_util.keystr(route) for route, _ in routes]
    of_llama = [name for name in names if ".llama" in name]
    # A and B of two matrices, with two moments.
    assert len(of_llama) == 12 and all(".lora[" in name for name in of_llama)
    step = make_step(step_config)
    losses = []
    for _ in range(8):
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0]
    for name, change in state.params.llama.blocks.lora.items():
        was = before.llama.blocks.lora[name]
        assert not np.array_equal(change.a, was.a), name
        assert not np.any(was.b) and np.any(change.b), name
    for part in ("softmax", "input_adapter", "output_adapter", "gap_table"):
        now, was = getattr(state.params, part), getattr(before, part)
        for x, y in zip(jax.tree.leaves(now), jax.tree.leaves(was), strict=False):
            assert x.dtype == bool or not np.array_equal(x, y), part


GRADIENTS = """
import json, sys
sys.path.insert(0, "tests")
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from eqids.config import LlamaConfig, LoraConfig, ModelConfig
from eqids.fit.step import split
from eqids.model import Batch, EqIDs
import sharding
from sharding import Placement

llama = LlamaConfig(16, 2, 4, 2, 8, 24, 8, tied=True)
config = ModelConfig(llama, 8, 4, item_width=8, lora=LoraConfig(3, 5.0))
rng = np.random.default_rng(0)
model = EqIDs(config, key=jax.random.key(0))
lora = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype),
                    model.llama.blocks.lora)
model = eqx.tree_at(lambda m: m.llama.blocks.lora, model, lora)
batch = Batch(*(rng.integers(*span, (8, 12)).astype(np.int32) for span in
                ((0, 7), (0, 32), (0, 30), (1, 2), (0, 12), (0, 32))))

@jax.jit
def gradients(params, frozen, batch):
    def loss(params):
        return eqx.combine(params, frozen).loss(batch)[0]
    return jax.grad(loss)(params)

def on(name, shape):
    put = Placement(None, None)
    if shape:
        layout = sharding.named_layout(shape, 8)
        put = Placement(layout, sharding.make_mesh(layout))
    with put.active():
        params, frozen = split(put(model), "lora", jnp.float32)
        grads = gradients(params, frozen, put(batch))
        blocks = params.llama.blocks.lora
        same = jax.tree.map(lambda g, p: g.sharding.is_equivalent_to(
            p.sharding, p.ndim), grads, params)
        assert all(jax.tree.leaves(same)), name
        specs = {f"{n}.{k}": [str(e) for e in jax.typeof(getattr(c, k)).sharding.spec]
                 for n, c in blocks.items() for k in "ab"} if shape else {}
        return jax.tree.map(np.asarray, grads), specs

want, _ = on("none", None)
found = {}
for name in ("data", "fsdp", "tensor"):
    grads, specs = on(name, name)
    error = jax.tree.map(lambda g, w: float(np.abs(g - w).max() / np.abs(w).max()),
                         grads, want)
    found[name] = {"error": max(jax.tree.leaves(error)), "specs": specs}
print(json.dumps(found))
"""


@pytest.mark.long
def test_gradients_on_eight_devices_are_those_of_one() -> None:
    found = json.loads(run_python(GRADIENTS).splitlines()[-1])
    for name, result in found.items():
        assert result["error"] < 1e-5, (name, result["error"])
    specs = found["tensor"]["specs"]
    assert specs["wq.a"] == ["None", "None", "fsdp"]
    assert specs["wq.b"] == ["None", "tensor", "None", "None"]
    assert specs["wo.a"] == ["None", "None", "tensor", "None"]
    assert specs["w_down.b"] == ["None", "fsdp", "None"]


@pytest.mark.long
def test_a_second_stage_by_lora_resumes_evaluates_and_recommends(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    base(tmp_path / "llama")
    llama = ["--llama_path", str(tmp_path / "llama"), "--adapter", "linear"]
    heads = small(dataset.path, tmp_path / "1", *llama, "--train", "heads")
    train.main(once([*heads, "--num_steps", "20"]))
    lora = [*llama, "--train", "lora", "--lora_rank", "2", "--lora_targets", "q", "up"]
    lora += ["--load_checkpoint", str(tmp_path / "1" / "20"), "--eval_every", "10"]
    flags = small(dataset.path, tmp_path / "2", *lora, "--num_steps", "20")
    flags = once([*flags, "--learning_rate", "1e-9"])
    train.main([*flags, "--stop_at", "10"])
    capsys.readouterr()
    train.main(flags)
    assert "going on from step 10" in capsys.readouterr().out
    # It starts as the first stage ended, and at this rate it stays there.
    nll = [json.loads((tmp_path / n / "result.json").read_text())["nll"] for n in "12"]
    assert nll[1] == pytest.approx(nll[0], rel=1e-6)
    manifest = read_manifest(tmp_path / "2" / "20")
    stored = {n for n in manifest.arrays if n.startswith("params/llama")}
    path = "params/llama/blocks/lora"
    assert stored == {f"{path}/{n}/{m}" for n in ("wq", "w_up") for m in "ab"}
    # Opened again it is what was measured.
    evaluate.main(["--checkpoint", str(tmp_path / "2" / "20"), "--split", "valid",
                   "--json", str(tmp_path / "valid.json")])  # fmt: skip
    found = json.loads((tmp_path / "valid.json").read_text())
    assert found["filtered"]["ndcg@10"] == pytest.approx(manifest.meta["score"])
    first = eqids.load(tmp_path / "2").recommend([["item 1", "item 2"]], k=3)
    assert len(first) == 3
    # Other changes are another run, and other weights another Llama.
    other = [*flags, "--lora_alpha", "7"]
    said = refused(train.main, other, capsys)
    assert "--lora_alpha 32.0, this run has 7.0" in said
    other += ["--checkpoint_dir", str(tmp_path / "3")]
    other = once([*other, "--load_checkpoint", str(tmp_path / "2")])
    assert "was trained with --" in refused(train.main, other, capsys)
    base(tmp_path / "llama", seed=1)
    asked = ["--checkpoint", str(tmp_path / "2")]
    assert "holds other weights" in refused(evaluate.main, asked, capsys)


def test_flags_of_lora() -> None:
    path = Path("llama")
    given = TrainConfig(llama_path=path, train="lora", lora_targets=SOME)
    config = resolved(given, ML_100K)
    assert config.strategy == "lora"
    assert config.flags.lora == LoraConfig(16, 32.0, SOME)
    stored = json.loads(json.dumps(to_json(config)))
    assert from_json(type(config), stored, "config") == config
    estimated = TrainConfig(llama_size="1b", train="lora", estimate_memory_only=True)
    resolved(estimated, ML_100K)
    for build, said in (
        (lambda: TrainConfig(lora_rank=0), "--lora_rank is 0"),
        (lambda: TrainConfig(lora_alpha=0.0), "--lora_alpha is 0.0"),
        (lambda: TrainConfig(lora_targets=()), "--lora_targets is ''"),
        (lambda: TrainConfig(lora_targets=("q", "q")), "--lora_targets is 'q q'"),
        (lambda: TrainConfig(train="lora", freeze_llama=True), "--train lora contra"),
        (lambda: checked(TrainConfig(train="lora")), "needs --llama_path"),
        (
            lambda: checked(TrainConfig(llama_path=path, lora_rank=4)),
            "--lora_rank is for --train lora, and this run is --train heads",
        ),
    ):
        with pytest.raises(UserError, match=said):
            build()
