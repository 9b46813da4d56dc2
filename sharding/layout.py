"""Layouts as values: which mesh axis each logical axis lies on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

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

_WHOLE_IF_ODD = frozenset({"cluster"})
"""Words that are not split where the mesh does not divide them."""

LAYOUT_NAMES = ("data", "fsdp", "tensor")


class LayoutError(ValueError):
    """An array or a machine that a layout does not fit."""


@dataclass(frozen=True)
class Layout:
    """How arrays lie on a mesh.

    Attributes:
        name: the layout's name in the table.
        mesh_shape: devices along `data`, `fsdp` and `tensor`.
        storage: word to mesh axis or axes, for what is kept (weights, optimizer state).
        activations: word to mesh axes, for what flows (batches).
    """

    name: str
    mesh_shape: tuple[int, int, int]
    storage: Mapping[str, str | tuple[str, ...]] = field(
        default_factory=lambda: _STORAGE, hash=False
    )
    activations: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: _ACTIVATIONS, hash=False
    )

    def spec(
        self, names: Sequence[str], shape: Sequence[int], array: str
    ) -> PartitionSpec:
        """Returns where an array with these axes lies.

        Args:
            names: its logical axes.
            shape: its sizes.
            array: its name, for messages.

        Raises:
            LayoutError: a mesh axis does not divide an axis of the array.
        """
        sizes = dict(zip((DATA, FSDP, TENSOR), self.mesh_shape, strict=True))
        entries = []
        for word, size in zip(names, shape, strict=True):
            axes = self.activations.get(word) or self.storage.get(word)
            axes = (axes,) if isinstance(axes, str) else axes or ()
            axes = tuple(axis for axis in axes if sizes[axis] > 1)
            ways = int(np.prod([sizes[axis] for axis in axes]))
            if size % ways and word in _WHOLE_IF_ODD:
                axes = ()
            elif size % ways:
                raise LayoutError(
                    f"layout {self.name!r} splits {word!r} of {array} {ways} ways, "
                    f"which does not divide its size {size}"
                )
            entries.append(axes if len(axes) > 1 else axes[0] if axes else None)
        return PartitionSpec(*entries)


def named_layout(name: str, num_devices: int) -> Layout:
    """Returns a layout by name for a number of devices.

    Args:
        name: `data` (every device a replica, but for the catalog), `fsdp` (weights
            split too) or `tensor` (heads and feed-forward split over pairs, the rest
            over `fsdp`).
        num_devices: devices in the mesh.

    Raises:
        LayoutError: no such layout, or it cannot use this number of devices.
    """
    if name not in LAYOUT_NAMES:
        names = ", ".join(LAYOUT_NAMES)
        raise LayoutError(f"layout is {name!r}, wanted one of {names}")
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


def make_mesh(layout: Layout, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a layout, every axis explicit (sharding in types).

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
