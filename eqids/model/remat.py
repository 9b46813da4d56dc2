"""Rematerialisation: what blocks keep for their backward pass, and what they recompute.

A block keeps its inputs in any case. Copies of weights are never kept.
"""

from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.extend.core
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

_PRODUCT = "product"
"""The name of results of matrix products, which a policy may keep."""

Kept = Literal["nothing", "products", "products and attention", "all"]
"""What a block keeps for its backward pass besides its inputs."""

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def named_product(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Returns `x`, marked as the result of a product that a block may keep."""
    return checkpoint_name(x, _PRODUCT)


def kept_with(remat: bool, fused_attention: bool) -> Kept:
    """Returns what blocks keep.

    If blocks keep the products, the rest is recomputed quickly. The scores of the
    attention are a product too, but are recomputed because they are large. A fused
    kernel returns no scores but a number for each of their rows, which is kept with its
    result: running it again would take longer than reading them.

    Args:
        remat: recompute whole blocks.
        fused_attention: cuDNN computes the attention, and not XLA.
    """
    if remat:
        return "nothing"
    return "products and attention" if fused_attention else "products"


def checkpointed(
    body: Callable[Inputs, Output], kept: Kept
) -> Callable[Inputs, Output]:
    """Returns a function whose backward pass recomputes what is not kept.

    Args:
        body: computes one block; `jax.lax.scan` runs it.
        kept: what blocks keep instead of recomputing it.
    """
    products = jax.checkpoint_policies.save_only_these_names(_PRODUCT)
    policies: dict[Kept, Callable[..., bool] | None] = {
        "nothing": None,
        "products": products,
        "products and attention": jax.checkpoint_policies.save_from_both_policies(
            products, _fused_attention
        ),
        "all": _all_but_weights,
    }
    return jax.checkpoint(body, policy=policies[kept], prevent_cse=False)


def _all_but_weights(primitive: jax.extend.core.Primitive, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: keeps all but gathered weights, casts and names.

    Gathered and cast weights of all layers would be whole copies of the model, and are
    cheap to recompute. A named result is kept already as the product that it names.
    """
    return primitive.name not in ("reshard", "convert_element_type", "name")


def _fused_attention(primitive: jax.extend.core.Primitive, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint`: keeps what cuDNN's forward kernel returns."""
    return primitive.name.startswith("dot_product_attention")
