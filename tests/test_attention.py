"""Attention by products against torch's, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import assert_close

from eqids.config import LLAMA_PRESETS, LlamaConfig
from eqids.model.attention import (
    PrefixCache,
    attention,
    cudnn_attends,
    sees,
    with_columns,
)


def theirs(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, dy: jax.Array
) -> list[np.ndarray]:
    """What torch returns, and the gradients to q, k and v."""
    leaves = [torch.tensor(np.asarray(x, np.float64)) for x in (q, k, v)]
    for leaf in leaves:
        leaf.requires_grad_()
    y = torch.nn.functional.scaled_dot_product_attention(
        *[x.transpose(1, 2) for x in leaves],
        attn_mask=torch.tensor(np.asarray(mask))[:, None],
        enable_gqa=True,
    ).transpose(1, 2)
    y.backward(torch.tensor(np.asarray(dy, np.float64)))
    return [y.detach().numpy(), *[x.grad.numpy() for x in leaves]]


@pytest.mark.parametrize("seq", [1, 7, 127, 128, 201, 300])
@pytest.mark.parametrize("before", [0, 3])
def test_attention_in_parts_is_torchs(seq: int, before: int) -> None:
    rng = np.random.default_rng(seq)
    q, dy = rng.standard_normal((2, 2, seq, 6, 4), np.float32)
    k, v = rng.standard_normal((2, 2, seq, 2, 4), np.float32)
    segment = np.stack([np.arange(seq) // 90, np.arange(seq) // 250])
    first = rng.standard_normal((2, before, 2, 4), np.float32)
    stacked = PrefixCache(*(jnp.asarray(x)[None] for x in first))
    prefix = jax.tree.map(lambda x: x[0], stacked) if before else None

    @jax.jit
    def ours(q: jax.Array, k: jax.Array, v: jax.Array, dy: jax.Array) -> tuple:
        mask = with_columns(sees(jnp.asarray(segment)), before, True)
        y, pull = jax.vjp(lambda *xs: attention(*xs, mask, prefix=prefix), q, k, v)
        return mask, y, pull(dy)

    mask, y, pulled = ours(q, k, v, dy)
    k, v = (
        np.concatenate([np.broadcast_to(x, (2, *x.shape)), of_rows], axis=1)
        for x, of_rows in zip(first, (k, v), strict=True)
    )
    expected, dq, dk, dv = theirs(q, k, v, mask, dy)
    assert_close(y, expected, "float32")
    assert_close(pulled, (dq, dk[:, before:], dv[:, before:]), "gradient")


def test_attention_rounds_what_it_multiplies_to_narrower_keys() -> None:
    rng = np.random.default_rng(0)
    q, dy = jnp.asarray(rng.standard_normal((2, 2, 130, 6, 4), np.float32))
    k, v = jnp.asarray(rng.standard_normal((2, 2, 130, 2, 4)), jnp.bfloat16)
    mask = sees(jnp.ones((2, 130), jnp.int32))

    @jax.jit
    def attended(q: jax.Array, k: jax.Array, v: jax.Array, dy: jax.Array) -> tuple:
        y, pull = jax.vjp(lambda *xs: attention(*xs, mask), q, k, v)
        return y, pull(dy)

    y, (dq, dk, dv) = attended(q, k, v, dy)
    assert (y.dtype, dq.dtype, dk.dtype) == (q.dtype, q.dtype, k.dtype)
    whole = [x.astype(jnp.float32) for x in (q.astype(jnp.bfloat16), k, v)]
    expected = theirs(*whole, mask, dy)
    ours = y, dq, dk.astype(jnp.float32), dv.astype(jnp.float32)
    assert_close(ours, tuple(expected), "bfloat16")


def test_attention_computes_little_of_what_nobody_sees() -> None:
    def flops(seq: int) -> float:
        q, mask = jnp.ones((1, seq, 4, 32)), sees(jnp.ones((1, seq), jnp.int32))
        k = jnp.ones((1, seq, 2, 32))
        return jax.jit(attention).lower(q, k, k, mask).cost_analysis()["flops"]

    whole, parts = flops(64), flops(256)
    assert parts < 0.66 * 16 * whole


def test_cudnn_attends_half_precision_and_even_lengths() -> None:
    llama = LLAMA_PRESETS["1b"]
    assert cudnn_attends(llama, 64, "bfloat16")
    assert not cudnn_attends(llama, 64, "float32")
    assert not cudnn_attends(llama, 51, "bfloat16")
    assert not cudnn_attends(LlamaConfig(16, 1, 2, 2, 4, 8, 9), 64, "bfloat16")
