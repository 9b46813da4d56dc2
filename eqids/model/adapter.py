"""Adapters: from the width of items to Llama's, and back.

A direction is a class of its own, so that each array's axes can be declared; all
matrices are stored in Hugging Face's order, outputs first.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sharding import gathered


class InputAdapter(eqx.Module):
    """Two layers with GELU between them: item_width, hidden, width."""

    w_in: Float[Array, "hidden item_width"]
    b_in: Float[Array, " hidden"]
    w_out: Float[Array, "width hidden"]
    b_out: Float[Array, " width"]

    def __init__(self, item_width: int, hidden: int, width: int, *, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.w_in = _normal(k1, hidden, item_width)
        self.b_in = jnp.zeros(hidden)
        self.w_out = _normal(k2, width, hidden)
        self.b_out = jnp.zeros(width)

    def __call__(
        self, x: Float[Array, "batch seq item_width"]
    ) -> Float[Array, "batch seq width"]:
        y = jax.nn.gelu(_linear(x, self.w_in, self.b_in))
        return _linear(y, self.w_out, self.b_out)


class OutputAdapter(eqx.Module):
    """Two layers with GELU between them: width, hidden, item_width."""

    w_in: Float[Array, "hidden width"]
    b_in: Float[Array, " hidden"]
    w_out: Float[Array, "item_width hidden"]
    b_out: Float[Array, " item_width"]

    def __init__(self, item_width: int, hidden: int, width: int, *, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.w_in = _normal(k1, hidden, width)
        self.b_in = jnp.zeros(hidden)
        self.w_out = _normal(k2, item_width, hidden)
        self.b_out = jnp.zeros(item_width)

    def __call__(
        self, x: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq item_width"]:
        y = jax.nn.gelu(_linear(x, self.w_in, self.b_in))
        return _linear(y, self.w_out, self.b_out)


class LinearInput(eqx.Module):
    """One matrix from item_width to width."""

    w: Float[Array, "width item_width"]
    b: Float[Array, " width"]

    def __init__(self, item_width: int, width: int, *, key: PRNGKeyArray):
        self.w, self.b = _normal(key, width, item_width), jnp.zeros(width)

    def __call__(
        self, x: Float[Array, "batch seq item_width"]
    ) -> Float[Array, "batch seq width"]:
        return _linear(x, self.w, self.b)


class LinearOutput(eqx.Module):
    """One matrix from width to item_width."""

    w: Float[Array, "item_width width"]
    b: Float[Array, " item_width"]

    def __init__(self, item_width: int, width: int, *, key: PRNGKeyArray):
        self.w, self.b = _normal(key, item_width, width), jnp.zeros(item_width)

    def __call__(
        self, x: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq item_width"]:
        return _linear(x, self.w, self.b)


def _normal(key: PRNGKeyArray, outputs: int, inputs: int) -> Array:
    return jax.random.normal(key, (outputs, inputs)) / math.sqrt(inputs)


def _linear(
    x: Float[Array, "batch seq inputs"],
    w: Float[Array, "outputs inputs"],
    b: Float[Array, " outputs"],
) -> Float[Array, "batch seq outputs"]:
    w, b = gathered(w).astype(x.dtype), gathered(b).astype(x.dtype)
    return jnp.einsum("bsi,oi->bso", x, w) + b
