"""Arrays that lie in files, and are read box by box by the devices that hold them."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Sharding

Box = tuple[slice, ...]
"""A slice with a start and a stop for each axis."""


@dataclass(frozen=True)
class LazyArray:
    """An array that nobody has read yet; in a tree, it stands where the array will.

    Attributes:
        shape: of the whole.
        dtype: of what is read.
        read: returns one box of it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Box], np.ndarray]

    def padded(self, shape: tuple[int, ...]) -> "LazyArray":
        """Returns the array with zeros after the end of each axis, up to a shape."""

        def read(box: Box) -> np.ndarray:
            sizes = zip(box, self.shape, strict=True)
            own = [slice(min(at.start, n), min(at.stop, n)) for at, n in sizes]
            out = np.zeros([at.stop - at.start for at in box], self.dtype)
            inside = [at.stop - at.start for at in own]
            if all(inside):
                out[tuple(slice(n) for n in inside)] = self.read(tuple(own))
            return out

        return LazyArray(shape, self.dtype, read)

    def whole(self) -> jax.Array:
        """Returns all of it, on the default device."""
        return jax.device_put(self.read(tuple(slice(0, n) for n in self.shape)))

    def on(self, sharding: Sharding) -> jax.Array:
        """Returns the array, of which each of this process's devices reads its box.

        A box that several devices hold is read once, and the next one only after it
        is on its way: the host never has more of the array than its own part.

        Args:
            sharding: where it lies.
        """
        boxes: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        places = sharding.addressable_devices_indices_map(self.shape)
        for device, index in places.items():
            assert index is not None  # it is for devices of other processes only
            cuts = (at.indices(n) for at, n in zip(index, self.shape, strict=True))
            box = tuple((start, stop) for start, stop, _ in cuts)
            boxes.setdefault(box, []).append(device)
        parts = []
        for box, devices in boxes.items():
            part = self.read(tuple(slice(*cut) for cut in box))
            parts += [jax.device_put(part, device) for device in devices]
        return jax.make_array_from_single_device_arrays(self.shape, sharding, parts)
