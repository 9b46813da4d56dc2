"""Llama: blocks stacked over `layer` and scanned, weights in Hugging Face's order."""

import dataclasses
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqids.config import LlamaConfig, LoraConfig
from eqids.model.attention import (
    AttentionContext,
    Kernel,
    PrefixCache,
    attention,
    sees,
    with_columns,
)
from eqids.model.lora import LowRank, linear, low_rank_changes
from eqids.model.product import narrowed
from eqids.model.remat import checkpointed, kept_with
from eqids.model.rope import Rope, rope_tables, rotate
from sharding import gathered, like, lookup

INIT_STD = 0.02
"""Standard deviation of random weights: the `initializer_range` of Llama."""


def rms_norm(
    x: Float[Array, "*axes width"], scale: Float[Array, " width"], eps: float
) -> Float[Array, "*axes width"]:
    """RMSNorm (Zhang & Sennrich 2019), computed in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return y.astype(x.dtype) * gathered(scale.astype(x.dtype))


def dropout(
    x: Float[Array, "*axes"], rate: float, key: PRNGKeyArray | None
) -> Float[Array, "*axes"]:
    """Zeroes a share `rate` of `x` and scales up the rest; no key, no dropout."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape, out_sharding=like(x))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


class LlamaBlock(eqx.Module):
    """The weights of all blocks; in a scan, those of one block, which `__call__`
    runs."""

    attention_norm: Float[Array, "layer width"]
    wq: Float[Array, "layer heads head width"]
    wk: Float[Array, "layer kv_heads head width"]
    wv: Float[Array, "layer kv_heads head width"]
    wo: Float[Array, "layer width heads head"]
    ffn_norm: Float[Array, "layer width"]
    w_gate: Float[Array, "layer ffn width"]
    w_up: Float[Array, "layer ffn width"]
    w_down: Float[Array, "layer width ffn"]
    lora: dict[str, LowRank] | None
    config: LlamaConfig = eqx.field(static=True)

    def __init__(self, config: LlamaConfig, *, key: PRNGKeyArray):
        c, keys = config, iter(jax.random.split(key, 7))
        layer = c.num_layers
        # GPT-2's scaling: the residual sum of 2 * layer branches keeps its size.
        std_out = INIT_STD / math.sqrt(2 * layer)

        def normal(*shape: int, std: float = INIT_STD) -> Array:
            return std * jax.random.normal(next(keys), (layer, *shape))

        self.attention_norm = jnp.ones((layer, c.width))
        self.wq = normal(c.num_heads, c.head, c.width)
        self.wk = normal(c.num_kv_heads, c.head, c.width)
        self.wv = normal(c.num_kv_heads, c.head, c.width)
        self.wo = normal(c.width, c.num_heads, c.head, std=std_out)
        self.ffn_norm = jnp.ones((layer, c.width))
        self.w_gate = normal(c.ffn, c.width)
        self.w_up = normal(c.ffn, c.width)
        self.w_down = normal(c.width, c.ffn, std=std_out)
        self.lora = None
        self.config = c

    def with_lora(self, config: LoraConfig, *, key: PRNGKeyArray) -> "LlamaBlock":
        """Returns the blocks with new low-rank changes, whose B is zero."""
        lora = low_rank_changes(self, config, key=key)
        return eqx.tree_at(lambda b: b.lora, self, lora, is_leaf=lambda x: x is None)

    def merged(self) -> "LlamaBlock":
        """Returns the blocks with their low-rank changes added to the matrices."""
        if self.lora is None:
            return self
        names = list(self.lora)
        new = [self.lora[name].added(getattr(self, name)) for name in names]
        out = eqx.tree_at(lambda b: [getattr(b, name) for name in names], self, new)
        return eqx.tree_at(lambda b: b.lora, out, None)

    def __call__(
        self,
        x: Float[Array, "batch seq width"],
        context: AttentionContext,
        rate: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch seq width"]:
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        y = rms_norm(x, self.attention_norm, self.config.norm_eps)
        x = x + dropout(self.attend(y, context), rate, k1)
        y = rms_norm(x, self.ffn_norm, self.config.norm_eps)
        return x + dropout(self.feed_forward(y), rate, k2)

    def attend(
        self, x: Float[Array, "batch seq width"], context: AttentionContext
    ) -> Float[Array, "batch seq width"]:
        lora = self.lora or {}
        q = linear("bsw,hdw->bshd", x, self.wq, lora.get("wq"))
        k, v = self.keys_values(x, context.rope)
        q = rotate(q, *context.rope)
        y = context.attention(q, k, v, context.mask, context.prefix)
        return linear("bshd,whd->bsw", y, self.wo, lora.get("wo"), like(x))

    def keys_values(
        self, x: Float[Array, "batch seq width"], rope: Rope
    ) -> tuple[
        Float[Array, "batch seq kv_heads head"], Float[Array, "batch seq kv_heads head"]
    ]:
        """Returns keys and values in the precision of products, see `product`."""
        lora = self.lora or {}
        k = linear("bsw,hdw->bshd", x, self.wk, lora.get("wk"))
        v = linear("bsw,hdw->bshd", x, self.wv, lora.get("wv"))
        dtype = narrowed(self.wk, x.dtype).dtype
        return rotate(k, *rope).astype(dtype), v.astype(dtype)

    def feed_forward(
        self, x: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq width"]:
        lora = self.lora or {}
        gate = linear("bsw,fw->bsf", x, self.w_gate, lora.get("w_gate"))
        up = linear("bsw,fw->bsf", x, self.w_up, lora.get("w_up"))
        y = jax.nn.silu(gate) * up
        return linear("bsf,wf->bsw", y, self.w_down, lora.get("w_down"), like(x))


class Llama(eqx.Module):
    """A Llama of any `LlamaConfig` (Touvron et al. 2023; Grattafiori et al. 2024)."""

    embedding: Float[Array, "vocab width"]
    blocks: LlamaBlock
    norm: Float[Array, " width"]
    lm_head: Float[Array, "vocab width"] | None
    config: LlamaConfig = eqx.field(static=True)

    def __init__(self, config: LlamaConfig, *, key: PRNGKeyArray):
        k1, k2, k3 = jax.random.split(key, 3)
        shape = (config.vocab, config.width)
        self.embedding = INIT_STD * jax.random.normal(k1, shape)
        self.blocks = LlamaBlock(config, key=k2)
        self.norm = jnp.ones((config.width,))
        self.lm_head = None if config.tied else INIT_STD * jax.random.normal(k3, shape)
        self.config = config

    def embed(
        self, tokens: Int[Array, "batch seq"], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "batch seq width"]:
        """Returns the embeddings of text tokens."""
        table = gathered(narrowed(self.embedding, dtype))
        return lookup(table, tokens).astype(dtype)

    def hidden(
        self,
        embeddings: Float[Array, "batch seq width"],
        segment: Int[Array, "batch seq"],
        position: Int[Array, "batch seq"],
        *,
        rate: float = 0.0,
        remat: bool = False,
        unroll: bool = False,
        kernel: Kernel = "xla",
        key: PRNGKeyArray | None = None,
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch seq width"]:
        """Returns the final, normalised hidden states.

        Args:
            embeddings: the input; its dtype is the dtype of the computation.
            segment: a number for each packed sequence of a row; sequences never see
                each other.
            position: rotary positions, within each segment.
            rate: share of each branch that is dropped, if `key` is given.
            remat: recompute blocks in the backward pass instead of keeping their
                activations.
            unroll: compile blocks one by one instead of as a loop. In a loop, XLA for
                GPUs copies the weights of each block before it uses them.
            kernel: the kernel of the attention.
            key: randomness of the dropout.
            prefix: the keys and values of the tokens that every segment begins with.
        """
        mask = sees(segment)
        if prefix is not None:
            position = position + prefix.length
            mask = with_columns(mask, prefix.length, True)
            if kernel == "cudnn" and prefix.length % 2:
                prefix, mask = prefix.evened(), with_columns(mask, 1, False)
        context = AttentionContext(
            mask, rope_tables(position, self.config), partial(attention, kernel=kernel)
        )

        def body(
            x: Array, layer: tuple[LlamaBlock, PRNGKeyArray | None, PrefixCache | None]
        ) -> tuple[Array, None]:
            block, key, before = layer
            here = dataclasses.replace(context, prefix=before)
            return block(x, here, rate, key), None

        body = checkpointed(body, kept_with(remat, kernel == "cudnn"))
        keys = None if key is None else jax.random.split(key, self.config.num_layers)
        layers = self.blocks, keys, prefix
        x, _ = jax.lax.scan(body, embeddings, layers, unroll=unroll)
        return rms_norm(x, self.norm, self.config.norm_eps)

    def prefix_cache(
        self, tokens: Int[Array, " prefix"], dtype: DTypeLike = jnp.float32
    ) -> PrefixCache:
        """Returns the keys and values of tokens that all sequences will begin with.

        Args:
            tokens: the prefix.
            dtype: the dtype of the computation.
        """
        position = jnp.arange(len(tokens))[None]
        rope = rope_tables(position, self.config)
        context = AttentionContext(sees(jnp.ones_like(position)), rope, attention)
        _, found = self._with_keys(self.embed(tokens[None], dtype), context, None)
        return jax.tree.map(lambda x: x[:, 0], found)

    def continued(
        self,
        embeddings: Float[Array, "batch seq width"],
        position: Int[Array, "batch seq"],
        before: PrefixCache,
        seen: Bool[Array, "batch prefix"],
    ) -> tuple[Float[Array, "batch seq width"], PrefixCache]:
        """Returns hidden states of positions that follow others, as `hidden` would.

        Args:
            embeddings: of the positions; one sequence a row, padded at its end.
            position: rotary positions, counted from the beginning of the sequence.
            before: keys and values of the positions before, a row for each row.
            seen: which of those are real.

        Returns:
            The hidden states, and the keys and values of the same positions.
        """
        own = sees(jnp.ones_like(position))
        columns = jnp.broadcast_to(seen[:, None], (*position.shape, before.length))
        context = AttentionContext(
            jnp.concatenate([columns, own], axis=-1),
            rope_tables(position, self.config),
            attention,
        )
        x, found = self._with_keys(embeddings, context, before)
        return rms_norm(x, self.norm, self.config.norm_eps), found

    def _with_keys(
        self,
        x: Float[Array, "batch seq width"],
        context: AttentionContext,
        before: PrefixCache | None,
    ) -> tuple[Float[Array, "batch seq width"], PrefixCache]:
        """The output of the last block, and the keys and values of all blocks."""

        def body(
            x: Array, layer: tuple[LlamaBlock, PrefixCache | None]
        ) -> tuple[Array, PrefixCache]:
            block, own = layer
            y = rms_norm(x, block.attention_norm, self.config.norm_eps)
            # XLA computes these once, though the block asks for them again.
            found = PrefixCache(*block.keys_values(y, context.rope))
            return block(x, dataclasses.replace(context, prefix=own)), found

        return jax.lax.scan(body, x, (self.blocks, before))

    def headless(self) -> "Llama":
        """Returns the Llama without `lm_head`, which only `logits` uses."""
        return eqx.tree_at(lambda m: m.lm_head, self, None, is_leaf=lambda x: x is None)

    def logits(
        self, tokens: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq vocab"]:
        """Returns the float32 logits of the next token at every position.

        Raises:
            ValueError: the Llama has no `lm_head`, see `headless`.
        """
        if self.lm_head is None and not self.config.tied:
            raise ValueError(
                "lm_head is None, wanted a Llama with its head: load it anew"
            )
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = self.hidden(self.embed(tokens), jnp.ones_like(tokens), position)
        head = gathered(self.embedding if self.lm_head is None else self.lm_head)
        return jnp.einsum(
            "bsw,vw->bsv", x, head.astype(x.dtype), preferred_element_type=jnp.float32
        )
