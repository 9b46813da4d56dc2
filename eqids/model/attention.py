"""Attention: what computes it, what a position sees, what comes before sequences."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.config import LlamaConfig
from eqids.model.product import PRODUCT, product
from sharding import like

Kernel = Literal["xla", "cudnn", "like_cudnn"]
"""What computes attention: XLA's products, whose scores the backward pass computes
again; cuDNN's fused kernel; or, where that cannot even be traced, products that leave
to the backward pass what the kernel does."""


def cudnn_attends(config: LlamaConfig, seq_len: int, dtype: DTypeLike) -> bool:
    """Returns whether cuDNN's attention takes such heads and positions."""
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and seq_len % 2 == 0
        and config.head % 8 == 0
        and config.head <= 128
    )


_NEVER = -1e30
"""The score of what is not seen; finite, so that seeing nothing is no NaN."""

_PART, _MOST_PARTS = 64, 4
"""Least queries in a part, and most parts, see `_ends_of_parts`."""


class PrefixCache(eqx.Module):
    """Every block's keys and values of the tokens that all sequences begin with.

    A frozen Llama computes them once, instead of in every row of every batch.
    """

    keys: Float[Array, "layer prefix kv_heads head"]
    values: Float[Array, "layer prefix kv_heads head"]

    @property
    def length(self) -> int:
        """Its positions."""
        return self.keys.shape[-3]

    def evened(self) -> "PrefixCache":
        """Returns it after a position that nobody may see: cuDNN wants even numbers."""
        first = ((0, 0), (1, 0), (0, 0), (0, 0))
        return jax.tree.map(lambda x: jnp.pad(x, first), self)


def attention(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch seq kv_heads head"],
    v: Float[Array, "batch seq kv_heads head"],
    mask: Bool[Array, "batch seq keys"],
    kernel: Kernel = "xla",
    prefix: PrefixCache | None = None,
) -> Float[Array, "batch seq heads head"]:
    """Softmax attention with grouped queries, on each shard's own rows and heads.

    Args:
        q: queries.
        k: keys; products are computed in the narrower precision of both.
        v: values.
        mask: what each position sees: of the prefix, then of its sequence up to itself.
        kernel: what computes it.
        prefix: one block's keys and values, which come before those of every row.
    """
    before = () if prefix is None else (prefix.keys, prefix.values)

    def local(q: Array, k: Array, v: Array, mask: Array, *before: Array) -> Array:
        if before:
            k, v = (
                jnp.concatenate([jnp.broadcast_to(x, (len(y), *x.shape)), y], axis=1)
                for x, y in zip(before, (k, v), strict=True)
            )
        if kernel == "cudnn":
            return jax.nn.dot_product_attention(
                q, k, v, mask=mask[:, None], implementation=kernel
            )
        return _by_products(q, k, v, mask)

    if kernel == "like_cudnn":
        local = jax.checkpoint(local)
    sharding = like(q)
    arrays = (q, k, v, mask, *before)
    if sharding is None:
        return local(*arrays)
    # Outside shard_map, some implementations silently drop the output's sharding.
    specs = tuple(jax.typeof(x).sharding.spec for x in arrays)
    return jax.shard_map(
        local, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec
    )(*arrays)


def _by_products(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch keys kv_heads head"],
    v: Float[Array, "batch keys kv_heads head"],
    mask: Bool[Array, "batch seq keys"],
) -> Float[Array, "batch seq heads head"]:
    """Attention of one part of the queries after another, on no key behind its last.

    The queries of a group are the rows of one matrix.
    """
    batch, seq, heads, head = q.shape
    before, groups = k.shape[1] - seq, k.shape[2]
    q = q.reshape(batch, seq, groups, heads // groups, head).transpose(0, 2, 3, 1, 4)
    parts, start = [], 0
    for stop in _ends_of_parts(seq):
        keys = before + stop
        rows = q[..., start:stop, :].reshape(batch, groups, -1, head)
        score = product("bgrd,bkgd->bgrk", rows, k[:, :keys], dtype=jnp.float32)
        score = score.reshape(batch, groups, -1, stop - start, keys) / math.sqrt(head)
        seen = mask[:, None, None, start:stop, :keys]
        weight = jax.nn.softmax(jnp.where(seen, score, _NEVER), axis=-1)
        weight = weight.astype(q.dtype).reshape(batch, groups, -1, keys)
        part = product("bgrk,bkgd->bgrd", weight, v[:, :keys])
        parts.append(part.reshape(batch, groups, -1, stop - start, head))
        start = stop
    y = checkpoint_name(jnp.concatenate(parts, axis=3), PRODUCT)
    return y.transpose(0, 3, 1, 2, 4).reshape(batch, seq, heads, head)


def _ends_of_parts(seq: int) -> list[int]:
    """Where parts of the queries end, which are about equal.

    Of n parts (n - 1) / 2n of the scores, which nobody sees, are never computed; small
    parts cost more than they spare.
    """
    num = min(max(seq // _PART, 1), _MOST_PARTS)
    return [seq * (part + 1) // num for part in range(num)]


def sees(segment: Int[Array, "batch seq"]) -> Bool[Array, "batch seq seq"]:
    """Returns what each position sees: its own segment, up to itself."""
    seq = segment.shape[1]
    same = segment[:, :, None] == segment[:, None, :]
    return same & jnp.tril(jnp.ones((seq, seq), bool))


def with_columns(
    mask: Bool[Array, "batch seq keys"], num: int, value: bool
) -> Bool[Array, "batch seq more"]:
    """Returns a mask with so many more keys before the others, seen or not by all."""
    return jnp.pad(mask, ((0, 0), (0, 0), (num, 0)), constant_values=value)
