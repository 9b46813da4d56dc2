"""Where the arrays of a checkpoint go: which boxes are read, and for which devices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from eqids.checkpoints.chunks import Box, whole
from eqids.checkpoints.manifest import ArrayRecord
from eqids.config import require


@dataclass(frozen=True)
class Target:
    """An array that is to be restored."""

    name: str
    """Its name."""
    record: ArrayRecord
    """How it is stored."""
    like: Any
    """Its form: a NumPy array, or a jax array or `ShapeDtypeStruct`."""
    boxes: Sequence[Box]
    """What is to be read of it: each once, also for several devices."""
    devices: Sequence[Sequence[jax.Device]]
    """Who holds each box; nobody in particular where it has no sharding."""

    @staticmethod
    def of(name: str, record: ArrayRecord, like: Any) -> "Target":
        """Returns the target of an array that is to be like another.

        A sharding over an abstract mesh (of `jax.eval_shape`) means the mesh in use.
        """
        if isinstance(like, np.ndarray) or like.sharding is None:
            return Target(name, record, like, [whole(record)], [[]])
        sharding = _sharding(like)
        shape = _shape(record, like)
        holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            assert index is not None  # it is for devices of other processes only
            pairs = zip(index, shape, strict=True)
            extent = tuple(cut.indices(size)[:2] for cut, size in pairs)
            holders.setdefault(extent, []).append(device)
        boxes = [tuple(slice(*ends) for ends in extent) for extent in holders]
        return Target(name, record, like, boxes, list(holders.values()))

    def take(self, values: Iterator[Shaped[np.ndarray, "..."]]) -> Any:
        """Returns the array, made of the next values, one for each of its boxes.

        Raises:
            UserError: its dtype needs jax_enable_x64.
        """
        if isinstance(self.like, np.ndarray):
            return next(values)
        if self.like.sharding is None:
            array = jax.device_put(next(values))
        else:
            array = self._sharded(values)
        require(
            array.dtype == self.record.dtype,
            f"array {self.name!r} is {self.record.dtype}, which needs jax_enable_x64",
        )
        if self.record.key is None:
            return array
        return jax.random.wrap_key_data(array, impl=self.record.key)

    def _sharded(self, values: Iterator[Shaped[np.ndarray, "..."]]) -> jax.Array:
        sharding, shards = _sharding(self.like), []
        for devices in self.devices:
            shard = next(values)
            for device in devices:
                place = jax.sharding.SingleDeviceSharding(
                    device, memory_kind=sharding.memory_kind
                )
                shards.append(jax.device_put(shard, place))
        return jax.make_array_from_single_device_arrays(
            _shape(self.record, self.like), sharding, shards, dtype=shards[0].dtype
        )


def _shape(record: ArrayRecord, like: Any) -> tuple[int, ...]:
    # Keys are stored as their data, which have an axis more.
    return record.shape if record.key is not None else like.shape


def _sharding(like: Any) -> jax.sharding.Sharding:
    sharding = like.sharding
    if isinstance(sharding, jax.NamedSharding) and isinstance(
        sharding.mesh, jax.sharding.AbstractMesh
    ):
        return jax.NamedSharding(jax.sharding.get_mesh(), sharding.spec)
    return sharding
