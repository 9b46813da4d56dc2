"""Put a tree of arrays where a layout wants it."""

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from sharding.layout import (
    Layout,
    LayoutError,
    make_mesh,
    mesh_shapes,
    named_layout,
)
from sharding.words import Words, words

Shaped = jax.Array | np.ndarray | jax.ShapeDtypeStruct
"""An array, or the shape of one."""


def place(tree: PyTree, layout: Layout | None, mesh: Mesh | None) -> PyTree:
    """Returns the tree with every array on the mesh, as its words say.

    Args:
        tree: annotated modules holding arrays, or `jax.ShapeDtypeStruct`s, which
            come back with their sharding.
        layout: the layout, or None for no mesh.
        mesh: the layout's mesh, or None for the default device.

    Returns:
        The tree; where the mesh does not divide a catalog, clusters of zeros follow.

    Raises:
        LayoutError: a mesh axis does not divide an array; nothing has been moved.
    """
    axes = words(tree)
    if layout is None or mesh is None:
        return jax.tree.map(_on_default_device, tree)
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), _specs(tree, axes, layout)
    )

    def put(leaf: Shaped, axis: Words, sharding: NamedSharding) -> Shaped:
        shape = layout.padded(axis.names, leaf.shape)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)
        if shape != leaf.shape:
            more = [(0, n - size) for n, size in zip(shape, leaf.shape, strict=True)]
            leaf = np.pad(np.asarray(leaf), more)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(put, tree, axes, shardings)


def _specs(tree: PyTree, axes: PyTree[Words], layout: Layout) -> PyTree[PartitionSpec]:
    """Where arrays lie, or an error that names the layouts under which they would."""

    def under(layout: Layout) -> PyTree[PartitionSpec]:
        def spec(leaf: Shaped, axis: Words) -> PartitionSpec:
            shape = layout.padded(axis.names, leaf.shape)
            return layout.spec(axis.names, shape, axis.field)

        return jax.tree.map(spec, tree, axes)

    try:
        return under(layout)
    except LayoutError as error:
        fitting = []
        for shape in mesh_shapes(math.prod(layout.mesh_shape)):
            with suppress(LayoutError):
                name = "x".join(map(str, shape))
                under(dataclasses.replace(layout, name=name, mesh_shape=shape))
                fitting.append(name)
        others = f"layouts {', '.join(fitting)} fit" if fitting else "no layout fits"
        raise LayoutError(
            f"{error}; of {math.prod(layout.mesh_shape)} devices, {others}"
        ) from error


def beside(array: np.ndarray | jax.ShapeDtypeStruct, table: Shaped) -> Shaped:
    """Returns an array whose leading axis is split as the table's is.

    Args:
        array: of the host, or the shape of one.
        table: an array, or the shape of one, on a mesh or not.
    """
    sharding = getattr(table, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return _on_default_device(array)
    spec = PartitionSpec(sharding.spec[0], *[None] * (len(array.shape) - 1))
    sharding = NamedSharding(sharding.mesh, spec)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
    return jax.device_put(array, sharding)


def _on_default_device(leaf: Shaped) -> Shaped:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


@dataclass(frozen=True)
class Placement:
    """A layout on its mesh, or neither: where everything of a run lies."""

    layout: Layout | None
    mesh: Mesh | None

    def __call__(self, tree: PyTree) -> PyTree:
        """Returns the tree on the mesh; see `place`."""
        return place(tree, self.layout, self.mesh)

    def active(self) -> AbstractContextManager[object]:
        """Returns the context to compute in."""
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


def placement(name: str) -> Placement:
    """Returns a named layout over all devices there are; `none` is no mesh at all.

    Raises:
        LayoutError: no such layout, or it cannot use this number of devices.
    """
    if name == "none":
        return Placement(None, None)
    layout = named_layout(name, jax.device_count())
    return Placement(layout, make_mesh(layout))
