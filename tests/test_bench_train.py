"""The bench of the train step: FLOPs that XLA counts too, and a peer that agrees."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command, train_speed as train
from bench.bench_datasets import packed_batches, windows_of
from bench.flops import Amount, train_flops
from bench.matmuls import flops_of
from bench.train_torch import TorchRecommender, TorchStep, tensors
from bench.windows import Window, one_in_a_row, random_windows
from eqids.config import (
    LLAMA_PRESETS,
    NANO_RECIPE,
    LlamaConfig,
    LoraConfig,
    ModelConfig,
    Strategy,
)
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.strategy import trainable
from eqids.model import Batch, EqIDs
from sharding.compiled.hlo import count

TINY = LlamaConfig(16, 2, 4, 2, 8, 24, 32, tied=True)


def sizes_of(strategy: Strategy, num_clusters: int, cluster_size: int) -> ModelConfig:
    lora = LoraConfig(rank=3) if strategy == "lora" else None
    return ModelConfig(TINY, num_clusters, cluster_size, 12, "mlp", lora=lora)


def test_flops_of_a_published_llama_by_hand() -> None:
    llama = LLAMA_PRESETS["smollm2-135m"]
    sizes = ModelConfig(llama, 1, 1, 1, "linear")
    weights = 30 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)
    assert weights == 106_168_320
    amount = Amount(positions=1000, pairs=0, targets=0)
    adapter = 6 * 576 * 1000
    assert train_flops(sizes, "heads", amount) == 4 * weights * 1000 + adapter
    assert train_flops(sizes, "all", amount) == 6 * weights * 1000 + adapter
    pairs = dataclasses.replace(amount, positions=0, pairs=10)
    assert train_flops(sizes, "heads", pairs) == 30 * 12 * 576 * 10
    targets = Amount(0, 0, 7)
    assert train_flops(sizes, "heads", targets) == 7 * (6 * 576 + 6 * 2)
    assert flops_of(llama, "heads", 1000) == 4 * weights * 1000 // 30
    assert flops_of(llama, "all", 1000) == 6 * weights * 1000 // 30


def test_flops_are_those_that_xla_compiles(getkey: Callable[[], jax.Array]) -> None:
    """With low-rank changes: a frozen Llama and more."""
    strategy: Strategy = "lora"
    sizes = sizes_of(strategy, 2, 5)
    model = EqIDs(sizes, key=getkey())
    batch = Batch.of(one_in_a_row(random_windows(10, 3, 8, seed=0), 3)[0])
    params, frozen = eqx.partition(model, trainable(model, strategy))

    def loss(params: EqIDs) -> jax.Array:
        return jnp.sum(eqx.combine(params, frozen).queries(batch) ** 2)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    # XLA computes scores of later positions too, and leaves the softmax out here. The
    # backward pass computes scores again.
    amount = Amount(positions=24, pairs=3 * 8 * 8, targets=24)
    head = 6 * sizes.item_width * (sizes.num_clusters + sizes.cluster_size) * 24
    llama = sizes.llama
    again = 2 * llama.num_layers * llama.num_heads * llama.head * amount.pairs
    assert count(compiled.as_text()).flops == pytest.approx(
        train_flops(sizes, strategy, amount) - head + again, rel=1e-9
    )


def test_amounts_count_pairs_within_segments() -> None:
    batch = HostBatch.empty(2, 6)
    batch.segment[:] = [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
    batch.target[batch.segment > 0] = 5
    batch.target[0, 0] = -1
    found = Amount.of([batch] * 2)
    assert found == Amount(positions=2 * 6, pairs=2 * (6 + 3 + 1), targets=2 * 5)


def test_all_ways_to_batch_hold_the_same_windows(dataset: Dataset) -> None:
    packed, _ = packed_batches(dataset, BatchConfig(16, 4), 3)
    windows = windows_of(packed, seed=1)
    padded, rows = one_in_a_row(windows, 4), one_in_a_row(windows, 4, 16)
    contents = [
        sorted(
            tuple(w.items) + tuple(w.gap) + tuple(w.target)
            for w in windows_of(batches, seed=2)
        )
        for batches in (packed, padded, rows)
    ]
    assert contents[0] == contents[1] == contents[2]
    amounts = [Amount.of(batches) for batches in (packed, padded, rows)]
    assert amounts[0] == amounts[1] == amounts[2]
    assert len({batch.items.shape for batch in rows}) == 1
    whole = one_in_a_row(random_windows(10, 36, 5, seed=0), 8, 7)
    assert [batch.items.shape for batch in whole] == [(9, 7)] * 4
    assert all(batch.segment.any(axis=1).all() for batch in whole)
    for batch in padded:
        lengths = batch.segment.sum(axis=1)
        assert 1 <= lengths.min() and lengths.max() == batch.items.shape[1]
        assert len(lengths) <= 4


def test_batches_have_as_many_windows_in_a_row_as_the_epoch(dataset: Dataset) -> None:
    config = BatchConfig(16, 4)
    run = TrainingBatches(dataset, config)
    whole = [run.batch(k) for k in range(int(run.batches_per_epoch))]
    counts = [len(windows_of([batch], seed=0)) / 4 for batch in whole]
    chosen, usual = packed_batches(dataset, config, 1)
    assert usual == pytest.approx(np.mean(counts))
    off = abs(len(windows_of(chosen, seed=0)) / 4 - usual)
    assert off == pytest.approx(min(abs(count - usual) for count in counts))
    assert max(counts) > min(counts)


def copied(model: EqIDs, torch_model: TorchRecommender) -> None:
    """Gives the peer our weights."""
    import torch

    def put(there: Any, here: jax.Array) -> None:
        flat = np.array(here, np.float32).reshape(tuple(there.shape))
        with torch.no_grad():
            there.copy_(torch.from_numpy(flat))

    blocks = model.llama.blocks
    for i, layer in enumerate(torch_model.llama.layers):
        attention, mlp = layer.self_attn, layer.mlp
        put(layer.input_layernorm.weight, blocks.attention_norm[i])
        put(layer.post_attention_layernorm.weight, blocks.ffn_norm[i])
        for there, here in (
            (attention.q_proj, blocks.wq), (attention.k_proj, blocks.wk),
            (attention.v_proj, blocks.wv), (attention.o_proj, blocks.wo),
            (mlp.gate_proj, blocks.w_gate), (mlp.up_proj, blocks.w_up),
            (mlp.down_proj, blocks.w_down),
        ):  # fmt: skip
            put(there.weight, here[i])
    put(torch_model.llama.norm.weight, model.llama.norm)
    put(torch_model.items.weight, model.softmax.table)
    put(torch_model.bias, model.softmax.bias)
    put(torch_model.gaps.weight, model.gap_table)
    for peer, ours in (
        (torch_model.enter, model.input_adapter),
        (torch_model.leave, model.output_adapter),
    ):
        put(peer[0].weight, ours.w_in)
        put(peer[0].bias, ours.b_in)
        put(peer[2].weight, ours.w_out)
        put(peer[2].bias, ours.b_out)
    if blocks.lora is not None:
        names = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")
        changes = iter(torch_model.parameters[-2 * len(names) * TINY.num_layers :])
        for i in range(TINY.num_layers):
            for name in names:
                put(next(changes), blocks.lora[name].a[i])
                put(next(changes), blocks.lora[name].b[i])


@pytest.mark.parametrize("strategy", ["lora", "all"])
def test_the_peer_has_our_loss_and_gradients(
    strategy: Strategy, getkey: Callable[[], jax.Array]
) -> None:
    """With one cluster the hierarchical softmax is the full one."""
    sizes = sizes_of(strategy, 1, 9)
    model = EqIDs(sizes, key=getkey())
    # Zeros could hide a mistake.
    model = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(getkey(), x.shape)
        if jnp.issubdtype(x.dtype, jnp.floating) and not x.all() else x,
        model,
    )  # fmt: skip
    windows = [
        Window(w.items[:n], w.gap[:n], w.target[:n])
        for n, w in zip((7, 3, 5), random_windows(9, 3, 7, seed=1), strict=True)
    ]
    windows[0].target[2] = -1
    arrays = one_in_a_row(windows, 3)
    batch, (theirs,) = Batch.of(arrays[0]), tensors(arrays)
    peer = TorchRecommender(sizes, 9, strategy, "float32")
    copied(model, peer)
    params, frozen = eqx.partition(model, trainable(model, strategy))

    @jax.jit
    @jax.value_and_grad
    def ours(params: EqIDs) -> jax.Array:
        total, number = eqx.combine(params, frozen).loss(batch)
        return total / number

    value, grads = ours(params)
    loss = peer.loss(theirs)
    loss.backward()
    assert_close(value, loss.item(), "logits")
    items = grads.softmax.table.reshape(9, -1)
    assert_close(items, peer.items.weight.grad.numpy(), "logits")
    assert_close(grads.gap_table, peer.gaps.weight.grad.numpy(), "logits")
    wq = peer.llama.layers[1].self_attn.q_proj.weight
    if strategy == "all":
        assert_close(grads.llama.blocks.wq[1].reshape(wq.shape), wq.grad, "logits")
    else:
        assert wq.grad is None
    if strategy == "lora":
        b = peer.parameters[-1].grad.numpy()
        assert_close(grads.llama.blocks.lora["w_down"].b[1], b, "logits")
    last = [p.grad for p in peer.parameters if p.grad is not None]
    missing = len(peer.parameters) - len(last)
    assert missing == (1 if strategy == "all" else 0)  # the words


def test_the_peer_learns_in_bfloat16() -> None:
    arrays = one_in_a_row(random_windows(9, 3, 7, seed=1), 3)
    recipe = dataclasses.replace(NANO_RECIPE, learning_rate=1e-2)
    model = TorchRecommender(sizes_of("heads", 1, 9), 9, "heads", "bfloat16")
    step = TorchStep(model, recipe, 1.0)
    (batch,) = tensors(arrays)
    losses = [step(batch) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.long
def test_the_quick_bench_of_training(
    dataset: Dataset, tmp_path: Path, capsys: CaptureFixture[str],
    monkeypatch: MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(command, "pin", lambda cores: None)
    path, trace = tmp_path / "result.json", tmp_path / "trace"
    argv = ["train", "--quick", "--repetitions", "1", "--json", str(path)]
    argv += ["--data_dir", str(dataset.path), "--batch_size", "2", "--seq_len", "8"]
    argv += ["--window", "16", "--dtype", "float32", "--profile", str(trace)]
    command.main(argv)
    found, text = json.loads(path.read_text())["train"], capsys.readouterr().out
    for key in train.MEANINGS:
        assert f"train.{key} " in text
    measured = ("ratio", "share_of_matmuls", "ratio_histories", "ratio_packing")
    assert {key for key in train.MEANINGS if found[key] is not None} == set(measured)
    rows = {(row["name"], row["work"]): row for row in found["rows"]}
    work = "nano, heads, float32"
    ours, torch = rows["EqIDs", work], rows["transformers + torch", work]
    assert ours["facts"]["tokens/s"] == pytest.approx(16 / ours["seconds"]["median"])
    assert found["ratio"] == pytest.approx(
        ours["facts"]["tokens/s"] / torch["facts"]["tokens/s"]
    )
    packed, padded = (
        rows[name, f"{work}, {how}"]["facts"]["targets/s"]
        for name, how in (
            ("EqIDs", train.PACKED), ("transformers + torch", train.PADDED),
        )
    )  # fmt: skip
    assert found["ratio_histories"] == pytest.approx(packed / padded)
    assert ours["compile_seconds"] > 0 and ours["temp_bytes"] > 0
    assert list(trace.rglob("*.xplane.pb"))


def test_mistakes_of_training_are_one_sentence(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    for argv, tokens in (
        ("train --batch_size 0", "--batch_size is 0, wanted 1 or more"),
        ("train --num_items 0", "--num_items is 0, wanted 1 or more"),
        (f"train --llama_path {tmp_path / 'no'}", "no such folder"),
        (f"train --quick --on histories --data_dir {tmp_path / 'no'}", "prepare"),
    ):
        assert tokens in " ".join(refused(command.main, argv.split(), capsys).split())
