"""Adapters between the width of item vectors and Llama's, in either direction.

A module of weights stores the axis words of its input and its output, so that one class
serves both directions. Matrices have Hugging Face's order of axes, outputs first.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqids.config import ModelConfig
from sharding import gathered

Axis = tuple[str, int]
"""The word of an axis and its size, such as `("item_width", 384)`."""


class LinearAdapter(eqx.Module):
    """One matrix and a bias."""

    w: Float[Array, "*axes"]
    b: Float[Array, "*outputs"]
    axes: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, inputs: Axis, outputs: Axis, *, key: PRNGKeyArray):
        self.w, self.b = _normal(key, outputs[1], inputs[1]), jnp.zeros(outputs[1])
        self.axes, self.outputs = (outputs[0], inputs[0]), (outputs[0],)

    def __call__(
        self, x: Float[Array, "batch seq _inputs"]
    ) -> Float[Array, "batch seq _outputs"]:
        return _linear(x, self.w, self.b)


class IdentityAdapter(eqx.Module):
    """No change: item vectors are as wide as Llama.

    An item's vector then runs along the residual stream to the output, where it meets
    the vectors of similar items, as in SASRec (Kang & McAuley 2018).
    """

    def __call__(
        self, x: Float[Array, "batch seq width"]
    ) -> Float[Array, "batch seq width"]:
        return x


class MlpAdapter(eqx.Module):
    """Two layers with GELU between them."""

    w_in: Float[Array, "hidden *inputs"]
    b_in: Float[Array, " hidden"]
    w_out: Float[Array, "*outputs hidden"]
    b_out: Float[Array, "*outputs"]
    inputs: tuple[str, ...] = eqx.field(static=True)
    outputs: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, inputs: Axis, hidden: int, outputs: Axis, *, key: PRNGKeyArray):
        k1, k2 = jax.random.split(key)
        self.w_in, self.b_in = _normal(k1, hidden, inputs[1]), jnp.zeros(hidden)
        self.w_out = _normal(k2, outputs[1], hidden)
        self.b_out = jnp.zeros(outputs[1])
        self.inputs, self.outputs = (inputs[0],), (outputs[0],)

    def __call__(
        self, x: Float[Array, "batch seq _inputs"]
    ) -> Float[Array, "batch seq _outputs"]:
        y = jax.nn.gelu(_linear(x, self.w_in, self.b_in))
        return _linear(y, self.w_out, self.b_out)


def adapters(
    config: ModelConfig, into: PRNGKeyArray, out: PRNGKeyArray
) -> (
    tuple[IdentityAdapter, IdentityAdapter]
    | tuple[LinearAdapter, LinearAdapter]
    | tuple[MlpAdapter, MlpAdapter]
):
    """Returns a new adapter into Llama's width, and one out of it.

    Args:
        config: the sizes, and the kind of the adapters.
        into: randomness of the first.
        out: randomness of the second.
    """
    c = config
    item, llama = ("item_width", c.item_width), ("width", c.llama.width)
    if c.adapter == "identity":
        return IdentityAdapter(), IdentityAdapter()
    if c.adapter == "linear":
        return LinearAdapter(item, llama, key=into), LinearAdapter(llama, item, key=out)
    hidden = 4 * c.item_width
    return (
        MlpAdapter(item, hidden, llama, key=into),
        MlpAdapter(llama, hidden, item, key=out),
    )


def _normal(
    key: PRNGKeyArray, outputs: int, inputs: int
) -> Float[Array, "outputs inputs"]:
    return jax.random.normal(key, (outputs, inputs)) / math.sqrt(inputs)


def _linear(
    x: Float[Array, "batch seq inputs"],
    w: Float[Array, "outputs inputs"],
    b: Float[Array, " outputs"],
) -> Float[Array, "batch seq outputs"]:
    w, b = gathered(w).astype(x.dtype), gathered(b).astype(x.dtype)
    return jnp.einsum("bsi,oi->bso", x, w) + b
