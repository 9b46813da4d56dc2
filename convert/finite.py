"""Whether weights are numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from sharding import Words, words


@jax.jit
def finite(tree: PyTree) -> PyTree:
    """Returns whether all values of each array are finite: bool [layer] or [].

    Args:
        tree: modules whose arrays are annotated; stacked ones are told layer by layer.
    """

    def of(axes: Words, x: jax.Array) -> jax.Array:
        first = int(axes.names[:1] == ("layer",))
        # Of one pass and no temporaries, other than `isfinite(x).all()`.
        largest = jnp.max(jnp.abs(x), axis=tuple(range(first, x.ndim)), initial=0)
        return jnp.isfinite(largest)

    return jax.tree.map(of, words(tree, bind=False), tree)
