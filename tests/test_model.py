"""The whole model: shapes for any sizes, words beside items, padding."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from conftest import assert_close
from hypothesis import given, settings, strategies as st

from eqids.config import LlamaConfig, ModelConfig, from_json, to_json
from eqids.data.batches.host_batch import HostBatch
from eqids.model import Batch, EqIDs
from sharding import words

LLAMA = LlamaConfig(12, 2, 2, 1, 6, 20, 9)


def random_batch(rng: np.random.Generator, batch: int, seq: int, slots: int) -> Batch:
    """A batch of items and words, padded at the end of each row."""
    items = rng.integers(-1, slots, (batch, seq)).astype(np.int32)
    length = rng.integers(0, seq + 1, (batch, 1))
    inside = np.arange(seq) < length
    items = np.where(inside, items, -1)
    host = HostBatch.empty(batch, seq)
    host.tokens[:] = np.where(items < 0, rng.integers(0, 9, (batch, seq)), 0)
    host.items[:] = items
    host.gap[:] = rng.integers(0, 36, (batch, seq))
    host.segment[:] = inside
    host.position[:] = np.where(inside, np.arange(seq), 0)
    host.target[:] = np.where(inside, rng.integers(-1, slots, (batch, seq)), -1)
    return Batch.of(host)


@settings(max_examples=16)
@given(
    *(st.integers(1, 9) for _ in range(5)),
    st.sampled_from(["mlp", "linear"]),
    st.booleans(),
)
def test_shapes_hold_for_any_sizes(
    batch: int,
    seq: int,
    cluster: int,
    cluster_size: int,
    width: int,
    adapter: str,
    tied: bool,
) -> None:
    """Traced only, with every annotation checked by beartype."""
    config = ModelConfig(
        LLAMA, cluster, cluster_size, item_width=width, adapter=adapter, tied_items=tied
    )  # type: ignore[arg-type]
    model = eqx.filter_eval_shape(EqIDs, config, key=jax.random.key(0))
    words(model)
    rows = random_batch(np.random.default_rng(0), batch, seq, cluster * cluster_size)
    queries = eqx.filter_eval_shape(EqIDs.queries, model, rows)
    assert queries.shape == (batch, seq, width)
    loss, count = eqx.filter_eval_shape(EqIDs.loss, model, rows)
    assert loss.shape == count.shape == ()
    scores = eqx.filter_eval_shape(lambda m, q: m.softmax.log_probs(q), model, queries)
    assert scores.shape == (batch, seq, cluster * cluster_size)


def test_words_enter_as_llama_embeds_them_and_items_through_the_adapter() -> None:
    config = ModelConfig(LLAMA, 3, 4, item_width=5, adapter="linear")
    model = EqIDs(config, key=jax.random.key(0))
    gaps = jax.random.normal(jax.random.key(1), model.gap_table.shape)
    model = eqx.tree_at(lambda m: m.gap_table, model, gaps)
    batch = random_batch(np.random.default_rng(1), 3, 8, 12)
    entered = model.embed(batch, model.item_vectors(batch.items, jnp.float32))
    for row in range(3):
        for at in range(8):
            slot = int(batch.items[row, at])
            expected = model.llama.embedding[batch.tokens[row, at]]
            if slot >= 0:
                vector = model.softmax.table[slot // 4, slot % 4]
                expected = model.input_adapter.w @ vector + model.input_adapter.b
                expected = expected + model.gap_table[batch.gap[row, at]]
            assert_close(entered[row, at], expected, "float32")


def test_padding_changes_neither_loss_nor_gradient() -> None:
    config = ModelConfig(LLAMA, 3, 4, item_width=5)
    model = EqIDs(config, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    batch = random_batch(np.random.default_rng(2), 4, 7, 12)

    def loss(params: EqIDs, batch: Batch) -> jax.Array:
        return eqx.combine(params, rest).loss(batch)[0]

    wider = jax.tree.map(lambda x: jnp.pad(x, ((0, 2), (0, 3))), batch)
    padding = jnp.pad(jnp.zeros((4, 7), bool), ((0, 2), (0, 3)), constant_values=True)
    wider = dataclasses.replace(
        wider,
        items=jnp.where(padding, -1, wider.items),
        target=jnp.where(padding, -1, wider.target),
    )
    one = jax.jit(jax.value_and_grad(loss))(params, batch)
    two = jax.jit(jax.value_and_grad(loss))(params, wider)
    assert_close(two, one, "gradient")


def test_dropout_needs_a_key_and_keeps_the_mean(
    getkey: Callable[[], jax.Array],
) -> None:
    config = ModelConfig(LLAMA, 3, 4, item_width=5, dropout=0.5)
    model = EqIDs(config, key=getkey())
    batch = random_batch(np.random.default_rng(3), 4, 7, 12)
    assert_close(model.queries(batch), model.queries(batch), "float32")
    dropped = model.queries(batch, key=getkey())
    assert not np.allclose(dropped, model.queries(batch))


def test_configs_round_trip_through_json() -> None:
    from eqids.config import LLAMA_PRESETS

    for llama in LLAMA_PRESETS.values():
        config = ModelConfig(llama, 10, 3)
        assert from_json(ModelConfig, to_json(config), "test") == config
