"""Attention: what computes it, what a position sees, what comes before sequences."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.config import LlamaConfig
from sharding import like

Kernel = Literal["xla", "cudnn", "recomputed"]
"""What computes attention: XLA's products, which keep the scores for the backward pass;
cuDNN's fused kernel, which keeps none; or XLA's with scores computed again."""


def cudnn_attends(config: LlamaConfig, seq_len: int, dtype: DTypeLike) -> bool:
    """Returns whether cuDNN's attention takes such heads and positions."""
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and seq_len % 2 == 0
        and config.head % 8 == 0
        and config.head <= 128
    )


class Opening(eqx.Module):
    """What every sequence begins with, as each block's keys and values of it.

    Computed once where Llama is frozen, instead of in every row of every batch.
    """

    keys: Float[Array, "layer opening kv_heads head"]
    values: Float[Array, "layer opening kv_heads head"]

    @property
    def length(self) -> int:
        """Its positions."""
        return self.keys.shape[-3]

    def evened(self) -> "Opening":
        """Returns it after a position that nobody may see: cuDNN wants even numbers."""
        first = ((0, 0), (1, 0), (0, 0), (0, 0))
        return jax.tree.map(lambda x: jnp.pad(x, first), self)


def attention(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch seq kv_heads head"],
    v: Float[Array, "batch seq kv_heads head"],
    mask: Bool[Array, "batch seq keys"],
    kernel: Kernel = "xla",
    opening: Opening | None = None,
) -> Float[Array, "batch seq heads head"]:
    """Softmax attention with grouped queries, on each shard's own rows and heads.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: what each position sees, of the opening and then of the sequence.
        kernel: what computes it.
        opening: one block's keys and values before those of every row.
    """
    before = () if opening is None else (opening.keys, opening.values)

    def local(q: Array, k: Array, v: Array, mask: Array, *before: Array) -> Array:
        if before:
            k, v = (
                jnp.concatenate([jnp.broadcast_to(x, (len(y), *x.shape)), y], axis=1)
                for x, y in zip(before, (k, v), strict=True)
            )
        which: Literal["xla", "cudnn"] = "cudnn" if kernel == "cudnn" else "xla"
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask[:, None], implementation=which
        )

    if kernel == "recomputed":
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
