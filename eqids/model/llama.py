"""Llama: blocks stacked over `layer` and scanned, weights in Hugging Face's order."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from eqids.config import LlamaConfig, LoraConfig
from eqids.model.attention import (
    Kernel,
    PrefixCache,
    attention,
    sees,
    with_columns,
)
from eqids.model.lora import LowRank, low_rank_changes
from eqids.model.product import PRODUCT, narrowed, product
from eqids.model.rope import rope_tables, rotate
from sharding import gathered, like, lookup

INIT_STD = 0.02
"""Of every random weight, as Llama's own `initializer_range`."""


Rope = tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]]
"""Cosines and sines of rotary positions."""


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
    """Zeroes a share `rate` of `x` and scales the rest up; without a key, nothing."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape, out_sharding=like(x))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


class Block(eqx.Module):
    """The weights of all blocks; `jax.lax.scan` hands `__call__` one layer's slice."""

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

    def with_lora(self, config: LoraConfig, *, key: PRNGKeyArray) -> "Block":
        """Returns the blocks with low-rank changes, which change nothing yet."""
        lora = low_rank_changes(self, config, key=key)
        return eqx.tree_at(lambda b: b.lora, self, lora, is_leaf=lambda x: x is None)

    def merged(self) -> "Block":
        """Returns the blocks with their low-rank changes added, and none beside."""
        if self.lora is None:
            return self
        names = list(self.lora)
        new = [self.lora[name].added(getattr(self, name)) for name in names]
        out = eqx.tree_at(lambda b: [getattr(b, name) for name in names], self, new)
        return eqx.tree_at(lambda b: b.lora, out, None)

    def __call__(
        self,
        x: Float[Array, "batch seq width"],
        mask: Bool[Array, "batch seq keys"],
        rope: Rope,
        rate: float,
        key: PRNGKeyArray | None,
        kernel: Kernel = "xla",
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch seq width"]:
        k1, k2 = (None, None) if key is None else jax.random.split(key)
        y = rms_norm(x, self.attention_norm, self.config.norm_eps)
        x = x + dropout(self.attend(y, mask, rope, kernel, prefix), rate, k1)
        y = rms_norm(x, self.ffn_norm, self.config.norm_eps)
        return x + dropout(self.feed_forward(y), rate, k2)

    def attend(
        self,
        x: Float[Array, "batch seq width"],
        mask: Bool[Array, "batch seq keys"],
        rope: Rope,
        kernel: Kernel = "xla",
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch seq width"]:
        q = rotate(self.times("wq", "bsw,hdw->bshd", x), *rope)
        k, v = self.keys_values(x, rope)
        y = attention(q, k, v, mask, kernel, prefix)
        return self.times("wo", "bshd,whd->bsw", y, like(x))

    def keys_values(
        self, x: Float[Array, "batch seq width"], rope: Rope
    ) -> tuple[
        Float[Array, "batch seq kv_heads head"], Float[Array, "batch seq kv_heads head"]
    ]:
        """Returns them in the precision of products, see `product`."""
        k = rotate(self.times("wk", "bsw,hdw->bshd", x), *rope)
        v = self.times("wv", "bsw,hdw->bshd", x)
        dtype = narrowed(self.wk, x.dtype).dtype
        return k.astype(dtype), v.astype(dtype)

    def feed_forward(
        self, x: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq width"]:
        y = jax.nn.silu(self.times("w_gate", "bsw,fw->bsf", x))
        y = y * self.times("w_up", "bsw,fw->bsf", x)
        return self.times("w_down", "bsf,wf->bsw", y, like(x))

    def times(
        self,
        name: str,
        equation: str,
        x: Float[Array, "batch seq *inputs"],
        out_sharding: NamedSharding | None = None,
    ) -> Float[Array, "batch seq *outputs"]:
        """Returns `x` times a matrix of the block, and times its low-rank change."""
        y = product(equation, x, getattr(self, name), out_sharding)
        change = None if self.lora is None else self.lora.get(name)
        return checkpoint_name(
            y if change is None else y + change(x, out_sharding), PRODUCT
        )


Kept = Literal["nothing", "products", "all"]
"""What a block leaves to its backward pass besides what entered it."""


def kept_with(kernel: Kernel, remat: bool) -> Kept:
    """Returns what blocks keep.

    From products all else is quickly made again, scores of the attention too: they are
    a product, but a large one. Not so where cuDNN computes these, whose result XLA
    cannot make inside of others.

    Args:
        kernel: of the attention.
        remat: whether blocks are recomputed.
    """
    if remat:
        return "nothing"
    return "products" if kernel == "xla" else "all"


def checkpointed(body: Callable[..., Any], kept: Kept) -> Callable[..., Any]:
    """Returns a function of one block whose backward pass makes again what is not kept.

    Args:
        body: what `jax.lax.scan` runs.
        kept: what is; copies of weights never are.
    """
    policies: dict[Kept, Callable[..., bool] | None] = {
        "nothing": None,
        "products": jax.checkpoint_policies.save_only_these_names(PRODUCT),
        "all": _all_but_weights,
    }
    return jax.checkpoint(body, policy=policies[kept], prevent_cse=False)


def _all_but_weights(primitive: jax.extend.core.Primitive, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: keeps all but gathered weights, casts and names.

    The first two stand for whole copies of the model, layer after layer, and cost
    little to make again; what has a name is kept without it.
    """
    return primitive.name not in ("reshard", "convert_element_type", "name")


class Llama(eqx.Module):
    """A Llama of any `LlamaConfig` (Touvron et al. 2023; Grattafiori et al. 2024)."""

    embedding: Float[Array, "vocab width"]
    blocks: Block
    norm: Float[Array, " width"]
    lm_head: Float[Array, "vocab width"] | None
    config: LlamaConfig = eqx.field(static=True)

    def __init__(self, config: LlamaConfig, *, key: PRNGKeyArray):
        k1, k2, k3 = jax.random.split(key, 3)
        shape = (config.vocab, config.width)
        self.embedding = INIT_STD * jax.random.normal(k1, shape)
        self.blocks = Block(config, key=k2)
        self.norm = jnp.ones((config.width,))
        self.lm_head = None if config.tied else INIT_STD * jax.random.normal(k3, shape)
        self.config = config

    def embed(
        self, tokens: Int[Array, "batch seq"], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "batch seq width"]:
        """Returns the embeddings of word tokens."""
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
        kernel: Kernel = "xla",
        key: PRNGKeyArray | None = None,
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch seq width"]:
        """Returns the final, normalised hidden states.

        Args:
            embeddings: what enters; its dtype is the dtype of the computation.
            segment: packed sequences of one row bear different numbers and never
                see each other.
            position: rotary positions, within each segment.
            rate: share of each branch dropped where `key` is given.
            remat: recompute blocks in the backward pass instead of keeping what is
                inside them. Gathered weights are never kept.
            kernel: of the attention.
            key: randomness of the dropout.
            prefix: of the tokens that every segment begins with.
        """
        mask = sees(segment)
        if prefix is not None:
            position = position + prefix.length
            mask = with_columns(mask, prefix.length, True)
            if kernel == "cudnn" and prefix.length % 2:
                prefix, mask = prefix.evened(), with_columns(mask, 1, False)
        rope = rope_tables(position, self.config)

        def body(
            x: Array, layer: tuple[Block, PRNGKeyArray | None, PrefixCache | None]
        ) -> tuple[Array, None]:
            block, key, before = layer
            return block(x, mask, rope, rate, key, kernel, before), None

        body = checkpointed(body, kept_with(kernel, remat))
        keys = None if key is None else jax.random.split(key, self.config.num_layers)
        x, _ = jax.lax.scan(body, embeddings, (self.blocks, keys, prefix))
        return rms_norm(x, self.norm, self.config.norm_eps)

    def prefix_cache(
        self, tokens: Int[Array, " prefix"], dtype: DTypeLike = jnp.float32
    ) -> PrefixCache:
        """Returns the keys and values of tokens that sequences are to begin with.

        Args:
            tokens: the prefix.
            dtype: of the computation.
        """
        position = jnp.arange(len(tokens))[None]
        mask = sees(jnp.ones_like(position))
        rope = rope_tables(position, self.config)

        def body(x: Array, block: Block) -> tuple[Array, tuple[Array, Array]]:
            y = rms_norm(x, block.attention_norm, self.config.norm_eps)
            k, v = block.keys_values(y, rope)
            return block(x, mask, rope, 0.0, None), (k[0], v[0])

        _, of_blocks = jax.lax.scan(body, self.embed(tokens[None], dtype), self.blocks)
        return PrefixCache(*of_blocks)

    def headless(self) -> "Llama":
        """Returns it without a head of its own for words, for who asks for none."""
        return eqx.tree_at(lambda m: m.lm_head, self, None, is_leaf=lambda x: x is None)

    def logits(
        self, tokens: Int[Array, "batch seq"]
    ) -> Float[Array, "batch seq vocab"]:
        """Returns the float32 logits of the next word at every position.

        Raises:
            ValueError: it is headless.
        """
        if self.lm_head is None and not self.config.tied:
            raise ValueError("this Llama has no head for words, as inside of an EqIDs")
        position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = self.hidden(self.embed(tokens), jnp.ones_like(tokens), position)
        head = gathered(self.embedding if self.lm_head is None else self.lm_head)
        return jnp.einsum(
            "bsw,vw->bsv", x, head.astype(x.dtype), preferred_element_type=jnp.float32
        )
