"""A prompt computed once is the prompt in every row, where Llama is frozen."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from models import FLOAT32, TINY, tiny_model
from test_words import random_words

from eqids.config import NANO_RECIPE
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import (
    BatchConfig,
    TrainingBatches,
    last_positions,
    query_batch,
)
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch, EqIDs, PrefixCache, llama as llama_module
from eqids.model.attention import Kernel
from eqids.model.llama import Llama
from eqids.runs.run_tokens import prompt_computed


def both_ways(
    dataset: Dataset, model: EqIDs
) -> list[tuple[PrefixCache | None, ItemTokens]]:
    """Tokens whose prompt is in every row; and a prefix cache with tokens without."""
    tokens = random_words(dataset, 1, per_item=2, prompt=5)
    prefix, apart = prompt_computed(model.llama, tokens, "heads", FLOAT32)
    assert prefix is not None and prefix.length == 5
    assert apart is not None and len(apart.prompt) == 0
    return [(None, tokens), (prefix, apart)]


def test_queries_and_gradients_are_those_of_a_prompt_in_the_row(
    dataset: Dataset,
) -> None:
    """Of histories that end at many lengths; grouped queries, dropout off."""

    @jax.jit
    def queries(
        model: EqIDs, batch: Batch, last: jax.Array, prefix: PrefixCache | None
    ) -> jax.Array:
        return model.queries_at(batch, last, dtype=FLOAT32, prefix=prefix)

    model = tiny_model(dataset)
    histories = [dataset.history(user)[: 1 + user] for user in range(9)]
    found = []
    for prefix, tokens in both_ways(dataset, model):
        seq_len = 60 - (len(tokens.prompt) == 0) * 5
        arrays = query_batch(histories, [None] * 9, seq_len, tokens)
        last = jnp.asarray(last_positions(arrays))
        batch = Batch.of(arrays)

        def total(
            table: jax.Array,
            batch: Batch = batch,
            last: jax.Array = last,
            prefix: PrefixCache | None = prefix,
        ) -> jax.Array:
            changed = eqx.tree_at(lambda m: m.softmax.table, model, table)
            return jnp.sum(jnp.sin(queries(changed, batch, last, prefix)))

        asked = queries(model, batch, last, prefix)
        found.append((asked, jax.grad(total)(model.softmax.table)))
    assert_close(found[1], found[0], "gradient")
    assert np.abs(found[0][1]).max() > 1e-4


def test_packed_rows_hold_no_prompt_and_are_no_more(dataset: Dataset) -> None:
    """The loss of an epoch's targets, and how many rows they take."""
    losses, rows = [], []

    @jax.jit
    def loss(
        model: EqIDs, batch: Batch, prefix: PrefixCache | None
    ) -> tuple[jax.Array, jax.Array]:
        return model.loss(batch, prefix=prefix)

    model = tiny_model(dataset)
    for prefix, tokens in both_ways(dataset, model):
        # Windows are cut to what the prompt leaves of a row: no history is cut here.
        seq_len = 100 + len(tokens.prompt)
        config = BatchConfig(seq_len, 8, gap_dropout=0.0, shuffle_ties=False)
        batches = TrainingBatches(dataset, config, tokens)
        total, count, k = 0.0, 0, 0
        rows.append(batches.plan.rows_per_epoch)
        for k in range(int(np.ceil(batches.batches_per_epoch))):
            arrays = batches.batch(k)
            wanted = np.arange(8 * k, 8 * k + 8) < rows[-1]
            arrays.target[~wanted] = -1
            one, targets = loss(model, Batch.of(arrays), prefix)
            total, count = total + float(one), count + int(targets)
        assert count == batches.plan.num_targets
        losses.append(total / count)
    assert_close(losses[1], losses[0], "float32")
    assert rows[1] <= rows[0]


def test_only_a_frozen_llama_has_its_prompt_computed(dataset: Dataset) -> None:
    tokens = random_words(dataset, 1, per_item=2, prompt=5)
    llama = tiny_model(dataset).llama
    for strategy in ("all", "lora"):
        assert prompt_computed(llama, tokens, strategy, FLOAT32) == (None, tokens)
    assert prompt_computed(llama, None, "heads", FLOAT32) == (None, None)
    none = random_words(dataset, 1, per_item=2, prompt=0)
    assert prompt_computed(llama, none, "heads", FLOAT32) == (None, none)
    _, apart = prompt_computed(llama, tokens, "heads", FLOAT32)
    assert apart is not None and apart.least_seq_len == tokens.least_seq_len - 5


def test_the_step_takes_the_prefix_and_compiles_once(dataset: Dataset) -> None:
    """The loss is the model's, a checkpoint has no prefix, one program serves all."""
    model = tiny_model(dataset)
    prefix, tokens = both_ways(dataset, model)[1]
    batches = TrainingBatches(dataset, BatchConfig(40, 4), tokens)
    config = StepConfig("heads", NANO_RECIPE)
    params, frozen = split(model, "heads", FLOAT32)
    state, step = start(params, make_optimizer(config)), make_step(config)
    shapes, key = jax.tree.map(jnp.shape, state), jax.random.key(0)
    total, count = model.loss(Batch.of(batches.batch(0)), prefix=prefix)
    for k in range(3):
        batch = Batch.of(batches.batch(k))
        state, metrics = step(state, frozen, batch, key, None, prefix)
        if k == 0:
            assert_close(metrics.loss, total / count, "float32")
    assert jax.tree.map(jnp.shape, state) == shapes
    assert not any(jnp.shape(x) == prefix.keys.shape for x in jax.tree.leaves(state))
    assert step._cache_size() == 1


def test_a_prefix_cache_is_what_llamas_blocks_would_see() -> None:
    """Against hidden states of the whole sequence, by plain Llama."""
    config = dataclasses.replace(TINY, num_layers=3)
    llama = Llama(config, key=jax.random.key(1))
    tokens = jax.random.randint(jax.random.key(2), (2, 11), 0, config.vocab)
    tokens = tokens.at[1, :4].set(tokens[0, :4])
    position = jnp.broadcast_to(jnp.arange(11), tokens.shape)
    segment = jnp.ones_like(tokens)
    whole = llama.hidden(llama.embed(tokens), segment, position)
    rest = llama.hidden(
        llama.embed(tokens[:, 4:]), segment[:, 4:], position[:, :7],
        prefix=llama.prefix_cache(tokens[0, :4]),
    )  # fmt: skip
    assert_close(rest, whole[:, 4:], "float32")


@pytest.mark.parametrize("length", [4, 5])
def test_cudnn_is_given_an_even_number_of_keys(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would be given, computed by XLA: positions that nobody sees are none."""
    llama = Llama(TINY, key=jax.random.key(1))
    tokens = jax.random.randint(jax.random.key(2), (2, 6), 0, TINY.vocab)
    position = jnp.broadcast_to(jnp.arange(6), tokens.shape)
    prefix, given = llama.prefix_cache(jnp.arange(length)), list[int]()
    attend = llama_module.jax.nn.dot_product_attention

    def xla(q: Any, k: Any, v: Any, mask: Any, implementation: str) -> Any:
        given.append(k.shape[1])
        return attend(q, k, v, mask=mask)

    def hidden(kernel: Kernel) -> jax.Array:
        embeddings, segment = llama.embed(tokens), jnp.ones_like(tokens)
        return llama.hidden(embeddings, segment, position, kernel=kernel, prefix=prefix)

    wanted = hidden("xla")
    monkeypatch.setattr(llama_module.jax.nn, "dot_product_attention", xla)
    assert_close(hidden("cudnn"), wanted, "float32")
    assert set(given) == {10 if length == 4 else 12}


MESHES = """
import json
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from eqids.config import LlamaConfig, ModelConfig
from eqids.fit.step import split
from eqids.runs.run_tokens import prompt_computed
from eqids.data.batches.tokens import ItemTokens
from eqids.model import Batch, EqIDs
from sharding import Placement, make_mesh, named_layout

llama = LlamaConfig(32, 2, 4, 4, 8, 64, 64, tied=True)
model = EqIDs(ModelConfig(llama, 11, 5, item_width=16), key=jax.random.key(0))
shape, rng = (16, 12), np.random.default_rng(0)
slots = rng.integers(0, 55, (2, *shape)).astype(np.int32)
batch = Batch(
    tokens=np.zeros(shape, np.int32), items=slots[0], gap=np.zeros(shape, np.int32),
    segment=np.ones(shape, np.int32), target=slots[1],
    position=np.broadcast_to(np.arange(12, dtype=np.int32), shape),
)
none = np.zeros(55, np.int64)
tokens = ItemTokens(none[:0], none, none, np.array([3, 1, 4, 1, 5], np.int32))

@jax.jit
def loss(model, batch, prefix):
    return model.loss(batch, prefix=prefix)[0]

found = {}
for name in (None, "8x1x1", "2x1x4", "1x8x1", "2x2x2"):
    layout = None if name is None else named_layout(name, 8)
    put = Placement(layout, None if layout is None else make_mesh(layout))
    with put.active():
        params, frozen = split(put(model), "heads", "float32")
        prefix, _ = prompt_computed(frozen.llama, tokens, "heads", jnp.float32)
        found[str(name)] = float(
            loss(eqx.combine(params, frozen), put(batch), prefix)
        )
print(json.dumps(found))
"""


@pytest.mark.long
def test_every_mesh_has_the_same_loss() -> None:
    found = json.loads(run_python(MESHES))
    want = found.pop("None")
    assert len(found) == 4
    for name, loss in found.items():
        assert abs(loss - want) < 1e-5 * want, name
