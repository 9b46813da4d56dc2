"""Products of activations and weights, in the narrower of their two precisions."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sharding import gathered, like


def product(
    equation: str,
    x: Float[Array, "*inputs"],
    weight: Float[Array, "*sizes"],
    out_sharding: NamedSharding | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "*outputs"]:
    """Returns an einsum of activations and a weight; its result has `x`'s precision.

    A wider weight is cast to the precision of `x`. If the weight is narrower, such as a
    frozen bfloat16 weight with float32 activations, `x` is rounded and the sum is not:
    processors multiply bfloat16 faster than float32, and XLA moves float32 on a CPU
    without a conversion. Gradients are computed in the same way.

    Args:
        equation: an einsum of two operands; each letter is in at least two of the three
            terms.
        x: activations.
        weight: a stored weight, gathered here if a mesh splits it; or activations.
        out_sharding: the sharding of the result, if einsum cannot infer it.
        dtype: the dtype of the result, by default that of `x`; never narrower.
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
    """Returns a weight cast to a dtype; a narrower weight stays as it is."""
    narrower = weight.dtype.itemsize < jnp.dtype(dtype).itemsize
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
