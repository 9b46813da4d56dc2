"""Reading arrays back: every chunk against its digest, every shard to its device."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from eqids.fit.checkpoint.chunks import Box, chunks_in, shift, within
from eqids.fit.checkpoint.manifest import (
    ArrayRecord,
    DamageError,
    Manifest,
    content_problems,
    step_label,
)
from eqids.fit.checkpoint.store import PARTS, array_spec, sha256

_NUM_WORKERS = min(8, os.cpu_count() or 1)


class Reader:
    """Reads boxes of the arrays of one checkpoint, every chunk against its digest."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        # Nodes are read once per part instead of once per chunk.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 64 << 20}})
        self._pool = ThreadPoolExecutor(_NUM_WORKERS)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(
        self, name: str, box: Box, advance: Callable[[int], None] | None = None
    ) -> Shaped[np.ndarray, "..."]:
        """Values of array `name` inside `box`, zeros past the array's end.

        Chunks that meet the box are read whole, because a digest covers one chunk.

        Raises:
            DamageError: a chunk is missing or damaged; names step, array and file.
        """
        record = self._manifest.arrays[name]
        shape = tuple(cut.stop - cut.start for cut in box)
        values = _empty(shape, jax.numpy.dtype(record.dtype))
        stored = within(box, record.shape)
        if stored != box:
            values[...] = 0
        stores: dict[str, Any] = {}

        def fill(chunk: tuple[int, Box]) -> int:
            number, extent = chunk
            part, digest = record.chunks[number]
            try:
                if part not in stores:
                    stores[part] = self._open(part, name, record)
                got = stores[part][extent].read().result()
            except Exception as error:  # tensorstore raises whatever its status maps to
                raise self._damage(name, part, str(error)) from error
            if sha256(got) != digest:
                raise self._damage(name, part, "its SHA-256 is not the manifest's")
            common = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(extent, box, strict=True)
            )
            values[shift(common, box)] = got[shift(common, extent)]
            return got.nbytes

        for num_bytes in self._pool.map(fill, chunks_in(record, stored)):
            if advance is not None:
                advance(num_bytes)
        return values

    def _open(self, part: str, name: str, record: ArrayRecord) -> Any:
        spec = array_spec(self._path / PARTS / part, name, record)
        return ts.open(spec, open=True, context=self._context).result()

    def _damage(self, name: str, part: str, reason: str) -> DamageError:
        below = f"{PARTS}/{part}/"
        files = content_problems(self._path, self._manifest, below)
        where = files[0].split(": ", 1)[1] if files else reason.split(" [", 1)[0]
        return DamageError(
            f"{step_label(self._path)}: array {name!r} cannot be read from "
            f"{below}: {where}"
        )


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    # Aligned as XLA wants it, so that on a CPU the array is taken over, not copied.
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def read_sharded(
    reader: Reader,
    name: str,
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
) -> jax.Array:
    """Reads one shard at a time, once for all devices that hold it.

    A sharding over an abstract mesh (of `jax.eval_shape`) means the mesh in use.
    Where `shape` is larger than what is stored, zeros follow.
    """
    if isinstance(sharding, jax.NamedSharding) and isinstance(
        sharding.mesh, jax.sharding.AbstractMesh
    ):
        sharding = jax.NamedSharding(jax.sharding.get_mesh(), sharding.spec)
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # it is for devices of other processes only
        pairs = zip(index, shape, strict=True)
        extent = tuple(cut.indices(size)[:2] for cut, size in pairs)
        holders.setdefault(extent, []).append(device)
    shards = []
    for extent, devices in holders.items():
        values = reader.read(name, tuple(slice(*ends) for ends in extent))
        for device in devices:
            place = jax.sharding.SingleDeviceSharding(
                device, memory_kind=sharding.memory_kind
            )
            shards.append(jax.device_put(values, place))
    return jax.make_array_from_single_device_arrays(
        shape, sharding, shards, dtype=shards[0].dtype
    )
