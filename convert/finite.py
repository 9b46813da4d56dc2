"""Check that weights are finite."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree, Shaped

from sharding import Words, words


@jax.jit
def finite(tree: PyTree) -> PyTree:
    """Returns whether all values of each array are finite: bool [layer] or [].

    Args:
        tree: modules whose arrays are annotated; stacked arrays are checked by layer.
    """

    def of(axes: Words, x: jax.Array) -> jax.Array:
        first = int(axes.names[:1] == ("layer",))
        # Unlike `isfinite(x).all()`, this takes one pass and no temporary arrays.
        largest = jnp.max(jnp.abs(x), axis=tuple(range(first, x.ndim)), initial=0)
        return jnp.isfinite(largest)

    return jax.tree.map(of, words(tree, bind=False), tree)


def all_finite(values: Shaped[np.ndarray, "..."]) -> bool:
    """Returns whether all values of a host array of floats are finite.

    Bits are compared as integers: those of infinity and of every NaN are above those of
    every number. As signed integers they are so for positive values, as unsigned ones
    for negative values. Two maxima need no temporary array.
    """
    if values.size == 0:
        return True
    size = values.dtype.itemsize
    signed, unsigned = np.dtype(f"i{size}"), np.dtype(f"u{size}")
    plus, minus = np.array([np.inf, -np.inf]).astype(values.dtype).view(unsigned)
    return bool(
        values.view(unsigned).max() < minus and values.view(signed).max() < plus
    )
