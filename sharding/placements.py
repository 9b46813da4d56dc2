"""Places trees of arrays on a mesh by a layout."""

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from sharding.axis_words import Words, words
from sharding.layout import (
    Layout,
    LayoutError,
    make_mesh,
    mesh_shapes,
    named_layout,
)
from sharding.lazy_array import LazyArray
from sharding.processes import meet

Shaped = jax.Array | np.ndarray | jax.ShapeDtypeStruct | LazyArray
"""An array, the shape of one, or one that is not read yet."""


def place(
    tree: PyTree, layout: Layout | None, mesh: Mesh | AbstractMesh | None
) -> PyTree:
    """Returns the tree with every array on the mesh, as its words say.

    Args:
        tree: annotated modules of arrays; of `LazyArray`s, of which this process reads
            the parts of its devices; or of `jax.ShapeDtypeStruct`s, which get their
            sharding. An array that already has its sharding is not moved.
        layout: the layout, or None for no mesh.
        mesh: the layout's mesh, or None for the default device. For shapes, the mesh
            may be abstract, or one of devices that do not exist.

    Returns:
        The tree; clusters of zeros pad a catalog that the mesh does not divide.

    Raises:
        LayoutError: the mesh does not divide an array; no array was placed.
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
        if isinstance(leaf, LazyArray):
            return (leaf if shape == leaf.shape else leaf.padded(shape)).on(sharding)
        if shape != leaf.shape:
            more = [(0, n - size) for n, size in zip(shape, leaf.shape, strict=True)]
            leaf = np.pad(np.asarray(leaf), more)
        return _put(leaf, sharding)

    return jax.tree.map(put, tree, axes, shardings)


def _put(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # device_put would compare the array between all processes.
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])


def _specs(tree: PyTree, axes: PyTree[Words], layout: Layout) -> PyTree[PartitionSpec]:
    """How the mesh splits arrays, or an error that names the layouts that fit."""

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
    """Returns an array on the table's mesh, its leading axis split as the table's.

    A scalar is not split.

    Args:
        array: an array of the host, or its shape.
        table: an array or its shape, on a mesh or not.
    """
    sharding = getattr(table, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return _on_default_device(array)
    first = sharding.spec[:1] if array.shape else ()
    spec = PartitionSpec(*first, *[None] * (len(array.shape) - 1))
    sharding = NamedSharding(sharding.mesh, spec)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
    return _put(array, sharding)


def _on_default_device(leaf: Shaped) -> Shaped:
    if isinstance(leaf, LazyArray):
        return leaf.whole()
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


@dataclass(frozen=True)
class Placement:
    """A layout with its mesh, or neither: it places all arrays of a run."""

    layout: Layout | None
    mesh: Mesh | AbstractMesh | None

    def __call__(self, tree: PyTree) -> PyTree:
        """Returns the tree on the mesh; see `place`."""
        return place(tree, self.layout, self.mesh)

    def rows(self, num_rows: int) -> slice:
        """Returns the rows of a batch that this process's devices hold.

        Raises:
            LayoutError: the mesh does not divide the batch.
        """
        if self.layout is None or self.mesh is None:
            return slice(0, num_rows)
        sharding = self._of_batch(num_rows)
        held = sharding.addressable_devices_indices_map((num_rows,)).values()
        cuts = [index[0].indices(num_rows) for index in held if index is not None]
        return slice(min(cut[0] for cut in cuts), max(cut[1] for cut in cuts))

    def batch(self, own: PyTree, num_rows: int) -> PyTree:
        """Returns a batch on the mesh, of which each process has its own rows.

        Args:
            own: NumPy arrays whose leading axis is this process's `rows(num_rows)`.
            num_rows: rows of the whole batch.
        """
        if self.layout is None or self.mesh is None:
            return jax.tree.map(jnp.asarray, own)
        sharding, first = self._of_batch(num_rows), self.rows(num_rows).start

        def put(array: np.ndarray) -> jax.Array:
            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # None is for devices of other processes only
                start, stop, _ = index[0].indices(num_rows)
                return array[start - first : stop - first]

            shape = (num_rows, *array.shape[1:])
            return jax.make_array_from_callback(shape, sharding, part)

        return jax.tree.map(put, own)

    def _of_batch(self, num_rows: int) -> NamedSharding:
        assert self.layout is not None and isinstance(self.mesh, Mesh)
        spec = self.layout.spec(("batch",), (num_rows,), "a batch")
        return NamedSharding(self.mesh, spec)

    def active(self) -> AbstractContextManager[object]:
        """Returns the context to compute in, or, with an abstract mesh, to trace in."""
        if isinstance(self.mesh, AbstractMesh):
            return jax.sharding.use_abstract_mesh(self.mesh)
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)


ONE_DEVICE = Placement(None, None)
"""Everything on the default device."""


def placement(name: str) -> Placement:
    """Returns a layout over all devices, by name.

    Args:
        name: `none` for no mesh, or a name that `named_layout` takes.

    Raises:
        LayoutError: no layout has this name, or it cannot use this number of devices.
    """
    if name == "none":
        if jax.process_count() > 1:
            raise LayoutError(
                "layout 'none' is for one process, there are "
                f"{jax.process_count()}; wanted another --layout"
            )
        return Placement(None, None)
    layout = named_layout(name, jax.device_count())
    mesh = make_mesh(layout)
    meet(mesh)
    return Placement(layout, mesh)
