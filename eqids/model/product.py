"""Products of activations and weights, in the narrower of their two precisions."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sharding import gathered, like

PRODUCT = "product"
"""The name of what blocks keep for their backward pass, see `checkpointed`."""


def product(
    equation: str,
    x: Float[Array, "*inputs"],
    weight: Float[Array, "*sizes"],
    out_sharding: NamedSharding | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "*outputs"]:
    """Returns an einsum in the precision of `x`.

    A weight that is wider is cast first. Under one that is narrower, such as a frozen
    bfloat16 weight under float32 activations, `x` is rounded to it and the sum is not:
    processors multiply bfloat16 faster than float32, and XLA moves float32 on a CPU
    without converting it. Gradients are computed alike.

    Args:
        equation: of two operands, whose letters are each in two of the three terms or
            in all.
        x: activations.
        weight: as it is stored; a mesh gathers it. Or other activations.
        out_sharding: where einsum cannot tell.
        dtype: of the result, at least that of `x`, by default the same.
    """
    weight = gathered(narrowed(weight, x.dtype))
    if weight.dtype != x.dtype:
        y = _rounded(equation, out_sharding, x, weight)
        return y if dtype is None else y.astype(dtype)
    return jnp.einsum(
        equation, x, weight, out_sharding=out_sharding, preferred_element_type=dtype
    )


def narrowed(
    weight: Float[Array, "*sizes"], dtype: DTypeLike
) -> Float[Array, "*sizes"]:
    """Returns a weight in a dtype, or as it is where that is narrower."""
    narrower = jnp.finfo(weight.dtype).bits < jnp.finfo(dtype).bits
    return weight if narrower else weight.astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(
    equation: str, out_sharding: NamedSharding | None, x: Array, weight: Array
) -> Array:
    return jnp.einsum(
        equation, x.astype(weight.dtype), weight,
        preferred_element_type=x.dtype, out_sharding=out_sharding,
    )  # fmt: skip


def _forward(
    equation: str, out_sharding: NamedSharding | None, x: Array, weight: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _rounded(equation, out_sharding, x, weight), (x, weight)


def _backward(
    equation: str,
    out_sharding: NamedSharding | None,
    operands: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    x, weight = operands
    of_x, of_weight, of_both = equation.replace("->", ",").split(",")
    dx = _rounded(f"{of_both},{of_weight}->{of_x}", like(x), gradient, weight)
    dw = jnp.einsum(
        f"{of_both},{of_x}->{of_weight}",
        gradient.astype(weight.dtype), x.astype(weight.dtype),
        out_sharding=like(weight),
    )  # fmt: skip
    return dx, dw


_rounded.defvjp(_forward, _backward)
