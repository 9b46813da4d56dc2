"""Rotary position embeddings (Su et al. 2021, section 3.4), as in HF's Llama."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqids.config import LlamaConfig

Rope = tuple[Float[Array, "batch seq half"], Float[Array, "batch seq half"]]
"""Cosines and sines of every position's rotary angles."""


def rope_frequencies(config: LlamaConfig) -> np.ndarray:
    """Returns the angle per position of each rotary pair, float32 `[head / 2]`.

    With `llama3` scaling, wavelengths longer than `original / low_freq_factor` are
    stretched by `factor`, those shorter than `original / high_freq_factor` are kept,
    and those between are blended.
    """
    powers = np.arange(0, config.head, 2, dtype=np.float32) / config.head
    frequencies = (1.0 / config.rope_theta**powers).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    stretched = frequencies / scaling.factor
    if scaling.rope_type == "linear":
        return stretched
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return ((1 - keep) * stretched + keep * frequencies).astype(np.float32)


def rope_tables(position: Int[Array, "batch seq"], config: LlamaConfig) -> Rope:
    """Returns the float32 cosines and sines of every position's rotary angles."""
    angle = position[..., None].astype(jnp.float32) * rope_frequencies(config)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x: Float[Array, "batch seq heads head"],
    cos: Float[Array, "batch seq half"],
    sin: Float[Array, "batch seq half"],
) -> Float[Array, "batch seq heads head"]:
    """Rotates the pairs (i, i + head / 2) of each head, HF's order of the pairs."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    out = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(out, axis=-1).astype(x.dtype)
