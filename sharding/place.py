"""Put a tree of arrays where a layout wants it."""

import jax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from sharding.layout import Layout
from sharding.words import Words, words


def place(tree: PyTree, layout: Layout | None, mesh: Mesh | None) -> PyTree:
    """Returns the tree with every array on the mesh, as its words say.

    Args:
        tree: annotated modules holding arrays, or `jax.ShapeDtypeStruct`s, which
            come back with their sharding.
        layout: the layout, or None for no mesh.
        mesh: the layout's mesh, or None for the default device.

    Raises:
        LayoutError: a mesh axis does not divide an array; nothing has been moved.
    """
    axes = words(tree)
    if layout is None or mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)

    def where(leaf: jax.Array, axis: Words) -> NamedSharding:
        return NamedSharding(mesh, layout.spec(axis.names, leaf.shape, axis.field))

    shardings = jax.tree.map(where, tree, axes)

    def put(leaf: jax.Array, sharding: NamedSharding) -> PyTree:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(put, tree, shardings)
