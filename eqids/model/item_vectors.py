"""Item vectors: learned columns, then frozen columns of the items' texts, if any.

The columns are joined where vectors are read, a block or a row at a time. So the tables
that train, their gradients and their optimizer know of no text.
"""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

TEXT_STD = 0.05
"""Standard deviation of the text columns, as of learned columns that start from given
vectors."""


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The text columns of all items, and how they were made, on the host.

    Attributes:
        columns: zeros for an item without a text.
        mean: see `TextAxes`.
        axes: see `TextAxes`.
    """

    columns: Float[np.ndarray, "cluster place text_width"]
    mean: Float[np.ndarray, " encoding"]
    axes: Float[np.ndarray, "text_width encoding"]


class TextAxes(eqx.Module):
    """The projection that makes text columns of an encoding of a text.

    The columns are `axes @ c`, where `c` is the encoding minus `mean`, scaled to
    length 1. The model does not read it: items that are added later need it.
    """

    mean: Float[Array, " encoding"]
    axes: Float[Array, "text_width encoding"]

    @staticmethod
    def of(features: TextFeatures) -> "TextAxes":
        """Returns the projection of these features."""
        return TextAxes(jnp.asarray(features.mean), jnp.asarray(features.axes))

    @staticmethod
    def zeros(text_width: int, encoding_width: int) -> "TextAxes":
        """Returns a projection of these sizes to zeros."""
        return TextAxes(
            jnp.zeros(encoding_width), jnp.zeros((text_width, encoding_width))
        )


def joined(
    learned: Float[Array, "*axes learned_width"],
    text: Float[Array, "*axes text_width"] | None,
    dtype: DTypeLike,
) -> Float[Array, "*axes item_width"]:
    """Returns whole vectors in a dtype: learned columns, then text columns, if any."""
    learned = learned.astype(dtype)
    if text is None:
        return learned
    return jnp.concatenate([learned, text.astype(dtype)], axis=-1)
