"""The skip connection around Llama, against plain loops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_model import LLAMA

from eqids.config import ModelConfig, UserError
from eqids.data.batches.host_batch import HostBatch
from eqids.model import Batch, EqIDs
from eqids.model.adapter import IdentityAdapter
from eqids.model.item_vectors import TEXT_STD
from eqids.model.skip import Skip, last_items


def packed(seed: int, batch: int = 3, seq: int = 12) -> Batch:
    """Rows of several histories, with text before and after items."""
    rng = np.random.default_rng(seed)
    host = HostBatch.empty(batch, seq)
    host.segment[:] = np.sort(rng.integers(0, 4, (batch, seq)))[:, ::-1]
    host.items[:] = np.where(rng.random((batch, seq)) < 0.5, -1, 7)
    host.items[host.items > 0] = rng.integers(0, 12, np.sum(host.items > 0))
    host.position[:] = np.arange(seq)
    return Batch.of(host)


def slow_last_items(batch: Batch) -> np.ndarray:
    items, segment = np.asarray(batch.items), np.asarray(batch.segment)
    out = np.full_like(items, -1)
    for row, position in np.ndindex(items.shape):
        for at in range(position, -1, -1):
            if segment[row, at] != segment[row, position]:
                break
            if items[row, at] >= 0:
                out[row, position] = items[row, at]
                break
    return out


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_last_items_are_those_of_the_segment(seed: int) -> None:
    batch = packed(seed)
    found = last_items(batch.items, batch.segment)
    np.testing.assert_array_equal(found, slow_last_items(batch))


def both_models(adapter: str = "linear") -> tuple[EqIDs, EqIDs]:
    """The same model, with the skip connection and without."""
    sizes = LLAMA, 3, 4, LLAMA.width, adapter
    config = ModelConfig(*sizes, skip=True)  # type: ignore[arg-type]
    model = EqIDs(config, key=jax.random.key(0))
    return model, eqx.tree_at(
        lambda m: m.skip, model, None, is_leaf=lambda x: isinstance(x, Skip)
    )


def test_queries_are_what_llama_makes_plus_the_last_items_direction() -> None:
    model, without = both_models()
    batch, table = packed(3), np.asarray(model.softmax.table).reshape(12, -1)
    expected = np.array(without.queries(batch))
    slot = slow_last_items(batch)
    assert (slot < 0).any() and (slot >= 0).any()
    length = np.linalg.norm(table, axis=-1, keepdims=True)
    scale = 2.5
    model = eqx.tree_at(lambda m: m.skip.scale, model, jnp.asarray(scale))
    expected[slot >= 0] += scale * (table / length)[slot[slot >= 0]]
    np.testing.assert_allclose(model.queries(batch), expected, atol=1e-5)
    for position in (0, 5, 11):
        at = jnp.full(3, position)
        one = model.queries_at(batch, at, dtype=jnp.float32)
        np.testing.assert_allclose(one, expected[:, position], atol=1e-5)


def test_an_items_own_logit_starts_near_one() -> None:
    model, without = both_models()
    batch, table = packed(3), np.asarray(model.softmax.table).reshape(12, -1)
    slot = slow_last_items(batch)
    added = np.asarray(model.queries(batch) - without.queries(batch))
    own = np.einsum("bsw,bsw->bs", added, table[slot])[slot >= 0]
    assert 0.5 < own.mean() < 2.0


def test_text_columns_have_a_scale_of_their_own() -> None:
    rng = np.random.default_rng(0)
    valid = rng.random((3, 4)) < 0.8
    learned = rng.standard_normal((3, 4, 5)).astype(np.float32)
    text = 0.1 * rng.standard_normal((3, 4, 2)).astype(np.float32)
    text[0, 0] = 0
    skip = Skip(jnp.asarray(learned), jnp.asarray(text), jnp.asarray(valid))
    items = np.concatenate([learned, text], axis=-1)
    slot = np.where(rng.random((3, 4)) < 0.5, 0, -1)
    args = jnp.zeros(items.shape), jnp.asarray(items), jnp.asarray(slot)
    added = np.asarray(skip(*args))
    assert not added[slot < 0].any() and not added[0, 0, 5:].any()
    own = np.concatenate(
        [np.sum(part, -1, keepdims=True) for part in (
            added[..., :5] * learned, added[..., 5:] * text)], axis=-1
    )  # fmt: skip
    for part, scale, which in (
        (learned, skip.scale, valid),
        (text, skip.text_scale, valid & text.any(-1)),
    ):
        length = np.linalg.norm(part, axis=-1)
        mean = length[which].mean()
        wanted = 1.0 if part is learned else 2.0
        np.testing.assert_allclose(scale, wanted / mean, rtol=1e-5)
        column = 0 if part is learned else 1
        found = own[..., column][slot >= 0]
        np.testing.assert_allclose(found, (scale * length)[slot >= 0], rtol=1e-4)


def test_a_lift_adds_the_direction_of_the_text() -> None:
    rng = np.random.default_rng(0)
    learned, text = np.ones((1, 4, 5), np.float32), rng.standard_normal((1, 4, 2))
    text[0, 3] = 0
    rows = jnp.asarray(text, jnp.float32)
    skip = Skip(jnp.asarray(learned), rows, jnp.ones((1, 4), bool))
    query = jnp.asarray(rng.standard_normal((5, 7)), jnp.float32)
    slot = jnp.asarray([0, 1, 2, 3, -1])
    assert np.array_equal(skip.lifted(query, rows, slot), query)
    skip = eqx.tree_at(lambda s: s.text_lift, skip, jnp.asarray(3.0))
    added = np.asarray(skip.lifted(query, rows, slot) - query)
    assert not added[:, :5].any() and not added[3:].any()
    # An item of the usual length, `TEXT_STD` a column, has the lift as its own logit.
    length = np.linalg.norm(text[0, :3], axis=1, keepdims=True)
    usual = text[0, :3] / length * TEXT_STD * 2**0.5
    np.testing.assert_allclose(np.sum(added[:3, 5:] * usual, 1), 3.0, rtol=1e-5)


def test_an_identity_adapter_has_no_weights_and_wants_equal_widths() -> None:
    model, _ = both_models("identity")
    assert isinstance(model.input_adapter, IdentityAdapter)
    assert not jax.tree.leaves((model.input_adapter, model.output_adapter))
    with pytest.raises(UserError, match=r"item_width is 5, wanted the Llama's width"):
        ModelConfig(LLAMA, 3, 4, 5, "identity")
