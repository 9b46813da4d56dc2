"""Plans a restore: which boxes of each array are read, and which devices get them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Shaped

from eqids.checkpoints.chunks import Box, whole
from eqids.checkpoints.manifest import ArrayRecord
from eqids.config import require

Leaf = np.ndarray | jax.Array | jax.ShapeDtypeStruct
"""The shape, dtype and sharding that an array is restored with."""


@dataclass(frozen=True)
class ArrayPlan:
    """How one array is restored.

    Attributes:
        name: the name of the array.
        record: how it is stored.
        like: the shape, dtype and sharding that it gets.
        boxes: the parts to read, each once, even if several devices hold it.
        devices: the devices of each box; none if `like` has no sharding.
    """

    name: str
    record: ArrayRecord
    like: Leaf
    boxes: Sequence[Box]
    devices: Sequence[Sequence[jax.Device]]

    @staticmethod
    def of(name: str, record: ArrayRecord, like: Leaf) -> "ArrayPlan":
        """Returns the plan of an array.

        If the sharding is over an abstract mesh (of `jax.eval_shape`), the mesh in use
        replaces that mesh.
        """
        if isinstance(like, np.ndarray) or like.sharding is None:
            return ArrayPlan(name, record, like, [whole(record)], [[]])
        sharding = _sharding(like)
        shape = _shape(record, like)
        holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            assert index is not None  # None is for devices of other processes only
            pairs = zip(index, shape, strict=True)
            extent = tuple(cut.indices(size)[:2] for cut, size in pairs)
            holders.setdefault(extent, []).append(device)
        boxes = [tuple(slice(*ends) for ends in extent) for extent in holders]
        return ArrayPlan(name, record, like, boxes, list(holders.values()))

    def assemble(
        self, values: Iterator[Shaped[np.ndarray, "..."]]
    ) -> np.ndarray | jax.Array:
        """Returns the array, made of the next values, one for each of its boxes.

        Raises:
            UserError: the array's dtype needs jax_enable_x64.
        """
        if isinstance(self.like, np.ndarray):
            return next(values)
        if self.like.sharding is None:
            array = jax.device_put(next(values))
        else:
            array = self._sharded(self.like, values)
        require(
            array.dtype == self.record.dtype,
            f"array {self.name!r} is {self.record.dtype}, which needs jax_enable_x64: "
            "set JAX_ENABLE_X64=1",
        )
        if self.record.key is None:
            return array
        return jax.random.wrap_key_data(array, impl=self.record.key)

    def _sharded(
        self,
        like: jax.Array | jax.ShapeDtypeStruct,
        values: Iterator[Shaped[np.ndarray, "..."]],
    ) -> jax.Array:
        sharding, shards = _sharding(like), []
        for devices in self.devices:
            shard = next(values)
            for device in devices:
                target = jax.sharding.SingleDeviceSharding(
                    device, memory_kind=sharding.memory_kind
                )
                shards.append(jax.device_put(shard, target))
        return jax.make_array_from_single_device_arrays(
            _shape(self.record, like), sharding, shards, dtype=shards[0].dtype
        )


def _shape(
    record: ArrayRecord, like: jax.Array | jax.ShapeDtypeStruct
) -> tuple[int, ...]:
    # Random keys are stored as their data, which have one more axis.
    return record.shape if record.key is not None else like.shape


def _sharding(like: jax.Array | jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    sharding = like.sharding
    if isinstance(sharding, jax.NamedSharding) and isinstance(
        sharding.mesh, jax.sharding.AbstractMesh
    ):
        return jax.NamedSharding(jax.sharding.get_mesh(), sharding.spec)
    return sharding
