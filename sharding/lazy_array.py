"""Arrays in files, of which each device reads the part that it will hold."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Sharding

Slices = tuple[slice, ...]
"""A part of an array: a slice with a start and a stop for each axis."""


@dataclass(frozen=True)
class LazyArray:
    """An array that is not read yet; trees may hold it in place of the array.

    Attributes:
        shape: the shape of the whole array.
        dtype: the dtype of the values that `read` returns.
        read: a function that returns one part.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Slices], np.ndarray]

    def padded(self, shape: tuple[int, ...]) -> "LazyArray":
        """Returns the array with zeros after the end of each axis, up to a shape."""

        def read(part: Slices) -> np.ndarray:
            sizes = zip(part, self.shape, strict=True)
            own = [slice(min(at.start, n), min(at.stop, n)) for at, n in sizes]
            out = np.zeros([at.stop - at.start for at in part], self.dtype)
            inside = [at.stop - at.start for at in own]
            if all(inside):
                out[tuple(slice(n) for n in inside)] = self.read(tuple(own))
            return out

        return LazyArray(shape, self.dtype, read)

    def whole(self) -> jax.Array:
        """Returns the whole array, on the default device."""
        return jax.device_put(self.read(tuple(slice(0, n) for n in self.shape)))

    def on(self, sharding: Sharding) -> jax.Array:
        """Returns the array; each of this process's devices gets the part that it
        holds.

        A part that several devices hold is read once. A part is sent before the next
        one is read, so the host reads no more of the array than its own devices' parts.

        Args:
            sharding: the sharding of the result.
        """
        holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        places = sharding.addressable_devices_indices_map(self.shape)
        for device, index in places.items():
            assert index is not None  # None is for devices of other processes only
            cuts = (at.indices(n) for at, n in zip(index, self.shape, strict=True))
            bounds = tuple((start, stop) for start, stop, _ in cuts)
            holders.setdefault(bounds, []).append(device)
        parts = []
        for bounds, devices in holders.items():
            part = self.read(tuple(slice(*cut) for cut in bounds))
            parts += [jax.device_put(part, device) for device in devices]
        return jax.make_array_from_single_device_arrays(self.shape, sharding, parts)
