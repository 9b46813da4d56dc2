"""Attention: its kernels, the mask of a row, and the prefix cache."""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.config import LlamaConfig
from eqids.model.product import product
from eqids.model.remat import named_product
from eqids.model.rope import Rope
from sharding import like

Kernel = Literal["xla", "cudnn"]
"""The kernel of the attention: XLA's matrix products, whose scores the backward pass
recomputes, or cuDNN's fused kernel."""


def cudnn_attends(config: LlamaConfig, seq_len: int, dtype: DTypeLike) -> bool:
    """Returns whether cuDNN's kernel supports this head size, length and dtype."""
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and seq_len % 2 == 0
        and config.head % 8 == 0
        and config.head <= 128
    )


_NEVER = -1e30
"""The score of a masked key; finite, so that a row of masked keys is not NaN."""

_PART, _MOST_PARTS = 64, 4
"""The minimum of queries in a part, and the maximum of parts; see `_ends_of_parts`."""


class PrefixCache(eqx.Module):
    """The keys and values, in every block, of positions that come before others.

    Without a batch axis they are those of tokens that all sequences begin with, which a
    frozen Llama computes once, instead of in every row of every batch. With it, each
    row has its own.
    """

    keys: Float[Array, "layer *batch prefix kv_heads head"]
    values: Float[Array, "layer *batch prefix kv_heads head"]

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.keys.shape[-3]

    def for_rows(self, batch: int) -> "PrefixCache":
        """Returns the keys and values of all sequences for each row of a batch."""

        def repeated(x: Array) -> Array:
            layer, *sizes = x.shape
            return jnp.broadcast_to(x[:, None], (layer, batch, *sizes))

        return jax.tree.map(repeated, self)

    def followed_by(self, other: "PrefixCache") -> "PrefixCache":
        """Returns these positions and, after them, others."""
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y], -3), self, other)

    def evened(self) -> "PrefixCache":
        """Returns the cache with one more position in front, which a mask has to hide.

        cuDNN needs an even number of keys.
        """
        first = ((0, 0), (1, 0), (0, 0), (0, 0))
        return jax.tree.map(lambda x: jnp.pad(x, first), self)


Attention = Callable[[Array, Array, Array, Array, PrefixCache | None], Array]
"""Attention of queries, keys and values under a mask, as `attention` computes it."""


class AttentionContext(eqx.Module):
    """What the attention of a block needs besides its input.

    Attributes:
        mask: which keys each position sees: those of the prefix, then of its sequence.
        rope: cosines and sines of the positions.
        attention: computes it.
        prefix: this block's keys and values of the prefix, if there is one.
    """

    mask: Bool[Array, "batch seq keys"]
    rope: Rope
    attention: Attention = eqx.field(static=True)
    prefix: PrefixCache | None = None


def attention(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch seq kv_heads head"],
    v: Float[Array, "batch seq kv_heads head"],
    mask: Bool[Array, "batch seq keys"],
    prefix: PrefixCache | None = None,
    kernel: Kernel = "xla",
) -> Float[Array, "batch seq heads head"]:
    """Softmax attention with grouped queries; each shard computes its rows and heads.

    Args:
        q: queries.
        k: keys; products are computed in the narrower precision of the two.
        v: values.
        mask: which keys each position sees: the prefix, then its sequence up to itself.
        prefix: one block's keys and values, which come before those of the rows.
        kernel: XLA's products or cuDNN's kernel.
    """
    before = () if prefix is None else (prefix.keys, prefix.values)

    def local(q: Array, k: Array, v: Array, mask: Array, *before: Array) -> Array:
        if before:
            k, v = (
                jnp.concatenate([jnp.broadcast_to(x, (len(y), *x.shape[-3:])), y], 1)
                for x, y in zip(before, (k, v), strict=True)
            )
        if kernel == "cudnn":
            return jax.nn.dot_product_attention(
                q, k, v, mask=mask[:, None], implementation=kernel
            )
        return _by_products(q, k, v, mask)

    sharding = like(q)
    arrays = (q, k, v, mask, *before)
    if sharding is None:
        return local(*arrays)
    # Outside of shard_map, some implementations silently drop the output's sharding.
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
    """Attention in parts: each part of the queries uses the keys up to its last query.

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
    y = named_product(jnp.concatenate(parts, axis=3))
    return y.transpose(0, 3, 1, 2, 4).reshape(batch, seq, heads, head)


def _ends_of_parts(seq: int) -> list[int]:
    """Where each of about equal parts of the queries ends.

    With n parts, a share (n - 1) / 2n of the scores is not computed; all of these are
    masked. Small parts cost more than they save.
    """
    num = min(max(seq // _PART, 1), _MOST_PARTS)
    return [seq * (part + 1) // num for part in range(num)]


def sees(segment: Int[Array, "batch seq"]) -> Bool[Array, "batch seq seq"]:
    """Returns the mask: a position sees its own segment, up to itself."""
    seq = segment.shape[1]
    same = segment[:, :, None] == segment[:, None, :]
    return same & jnp.tril(jnp.ones((seq, seq), bool))


def with_columns(
    mask: Bool[Array, "batch seq keys"], num: int, value: bool
) -> Bool[Array, "batch seq more"]:
    """Returns a mask with `num` more keys in front, seen by all or by none."""
    return jnp.pad(mask, ((0, 0), (0, 0), (num, 0)), constant_values=value)
