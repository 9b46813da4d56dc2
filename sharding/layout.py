"""Layouts: which mesh axes split each logical axis."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
"""Mesh axes. `data` splits the batch; `fsdp` splits the batch and the stored
weights, which are gathered for use; `tensor` splits heads and feed-forward. A catalog
is split over all of them."""

_STORAGE: Mapping[str, str | tuple[str, ...]] = MappingProxyType(
    {
        "width": FSDP,
        "heads": TENSOR,
        "kv_heads": TENSOR,
        "ffn": TENSOR,
        "vocab": TENSOR,
        "cluster": (DATA, FSDP, TENSOR),
    }
)
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({"batch": (DATA, FSDP)})

_PADDED = frozenset({"cluster"})
"""Words whose axes are padded with zeros if the mesh does not divide them; a padded
cluster has no items. Padding is never saved."""

LAYOUT_NAMES = ("data", "fsdp", "tensor")
"""Layouts for any number of devices. The shape of a mesh, "2x2x2", is a name too."""


class LayoutError(ValueError):
    """A layout that does not fit an array or a machine."""


@dataclass(frozen=True)
class Layout:
    """How a mesh splits arrays.

    Attributes:
        name: its name, for messages.
        mesh_shape: devices along `data`, `fsdp` and `tensor`.
        storage: word to mesh axis or axes, of weights and optimizer state.
        activations: word to mesh axes, of batches and activations.
    """

    name: str
    mesh_shape: tuple[int, int, int]
    storage: Mapping[str, str | tuple[str, ...]] = field(
        default_factory=lambda: _STORAGE, hash=False
    )
    activations: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: _ACTIVATIONS, hash=False
    )

    def axes(self, word: str) -> tuple[str, ...]:
        """Returns the mesh axes that split a word's axis, without those of size one."""
        axes = self.activations.get(word) or self.storage.get(word) or ()
        axes = (axes,) if isinstance(axes, str) else axes
        return tuple(axis for axis in axes if self._sizes[axis] > 1)

    def ways(self, word: str) -> int:
        """Returns the number of parts of a word's axis."""
        return math.prod(self._sizes[axis] for axis in self.axes(word))

    def padded(self, names: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
        """Returns an array's shape on the mesh, padding clusters included."""
        return tuple(
            -(-size // self.ways(word)) * self.ways(word) if word in _PADDED else size
            for word, size in zip(names, shape, strict=True)
        )

    def spec(
        self, names: Sequence[str], shape: Sequence[int], array: str
    ) -> PartitionSpec:
        """Returns how the mesh splits an array with these axes.

        Args:
            names: its logical axes.
            shape: its sizes.
            array: its name, for messages.

        Raises:
            LayoutError: the mesh does not divide an axis of the array.
        """
        entries: list[str | tuple[str, ...] | None] = []
        for word, size in zip(names, shape, strict=True):
            axes, ways = self.axes(word), self.ways(word)
            if size % ways:
                raise LayoutError(
                    f"layout {self.name!r} splits {word!r} of {array} {ways} ways, "
                    f"which does not divide its size {size}"
                )
            entries.append(axes if len(axes) > 1 else axes[0] if axes else None)
        return PartitionSpec(*entries)

    @property
    def _sizes(self) -> dict[str, int]:
        return dict(zip((DATA, FSDP, TENSOR), self.mesh_shape, strict=True))


def mesh_shape_named(name: str) -> tuple[int, int, int] | None:
    """Returns the shape of a mesh that is spelled DATAxFSDPxTENSOR; None for others."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", name):
        return None
    data, fsdp, tensor = map(int, name.split("x"))
    return data, fsdp, tensor


def named_layout(name: str, num_devices: int) -> Layout:
    """Returns a layout by name for a number of devices.

    Args:
        name: `data` (every device has all weights but those of the catalog), `fsdp`
            (weights are split too), `tensor` (pairs of devices split heads and
            feed-forward, and `fsdp` the rest), or the mesh's shape, DATAxFSDPxTENSOR.
        num_devices: devices in the mesh.

    Raises:
        LayoutError: no layout has this name, or it cannot use this number of devices.
    """
    shape = mesh_shape_named(name)
    if shape is not None:
        if math.prod(shape) != num_devices:
            raise LayoutError(
                f"layout {name!r} is for {math.prod(shape)} devices, there are "
                f"{num_devices}"
            )
        return Layout(name, shape)
    if name not in LAYOUT_NAMES:
        names = ", ".join(LAYOUT_NAMES)
        raise LayoutError(
            f"layout is {name!r}, wanted one of {names}, DATAxFSDPxTENSOR, such as "
            f"1x{num_devices}x1, or a named layout (python -m sharding list)"
        )
    if name == "tensor" and num_devices % 2:
        raise LayoutError(
            f"layout 'tensor' needs an even number of devices, there are {num_devices}"
        )
    shapes = {
        "data": (num_devices, 1, 1),
        "fsdp": (1, num_devices, 1),
        "tensor": (1, num_devices // 2, 2),
    }
    return Layout(name, shapes[name])


def mesh_shapes(num_devices: int) -> list[tuple[int, int, int]]:
    """Returns all mesh shapes, (data, fsdp, tensor), of a number of devices."""
    ways = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    return [
        (data, fsdp, num_devices // (data * fsdp))
        for data in ways
        for fsdp in ways
        if num_devices % (data * fsdp) == 0
    ]


def make_mesh(layout: Layout, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a layout; all axes are explicit (shardings are part of array
    types).

    Raises:
        LayoutError: there are fewer devices than the layout needs.
    """
    devices = jax.devices() if devices is None else devices
    needed = int(np.prod(layout.mesh_shape))
    if len(devices) < needed:
        raise LayoutError(
            f"layout {layout.name!r} needs {needed} devices, there are {len(devices)}"
        )
    grid = np.array(devices[:needed]).reshape(layout.mesh_shape)
    return Mesh(grid, (DATA, FSDP, TENSOR), axis_types=(AxisType.Explicit,) * 3)


def abstract_mesh(layout: Layout) -> AbstractMesh:
    """Returns the mesh of a layout without devices, for shapes and for lowering."""
    axes = (DATA, FSDP, TENSOR)
    return AbstractMesh(layout.mesh_shape, axes, axis_types=(AxisType.Explicit,) * 3)
