"""Check that weights are finite."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

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
