"""A copy of shards in host memory, which nothing that trains can change."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import UInt8

from eqids.checkpoints.store import Shard
from sharding import aligned

_SLICE_BYTES = 16 << 20
"""What one thread copies at a time."""
_NUM_THREADS = min(8, os.cpu_count() or 1)


class Staging:
    """Host memory for the copies of one save at a time.

    It is kept from one save to the next: touching fresh memory takes longer than
    copying into it.
    """

    def __init__(self) -> None:
        self._memory = aligned(0)

    def copy(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns the shards with values of their own, in host memory.

        The copies before them are no longer needed: these take their place. What
        comes from an accelerator stays in the memory that jax moves it to, which
        nothing else writes to either.
        """
        moving = [shard for shard in shards if not _on_host(shard)]
        for shard in moving:
            assert isinstance(shard.values, jax.Array)
            shard.values.copy_to_host_async()
        sources = [np.asarray(shard.values) for shard in shards if _on_host(shard)]
        copies = iter(self._copy(sources))
        return [
            dataclasses.replace(
                shard,
                values=next(copies) if _on_host(shard) else np.asarray(shard.values),
            )
            for shard in shards
        ]

    def _copy(self, sources: Sequence[np.ndarray]) -> list[np.ndarray]:
        places, end = list[slice](), 0
        for source in sources:
            places.append(slice(end, end + source.nbytes))
            end += source.nbytes + -source.nbytes % 64
        if len(self._memory) < end:
            self._memory = aligned(0)  # gives the old back before it asks for more
            self._memory = aligned(end)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            jobs = [
                pool.submit(np.copyto, self._memory[place][cut], source[cut])
                for place, values in zip(places, sources, strict=True)
                for source in [_bytes(values)]
                for cut in _cuts(len(source))
            ]
            for job in jobs:
                job.result()
        return [
            self._memory[place].view(source.dtype).reshape(source.shape)
            for place, source in zip(places, sources, strict=True)
        ]


def _on_host(shard: Shard) -> bool:
    """Whether NumPy would see the memory that a step may change."""
    values = shard.values
    if isinstance(values, np.ndarray):
        return True
    return "host" in (values.sharding.memory_kind or "") or any(
        device.platform == "cpu" for device in values.devices()
    )


def _bytes(values: np.ndarray) -> UInt8[np.ndarray, " byte"]:
    # Of types that NumPy does not know (bfloat16) it copies one value at a time.
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _cuts(size: int) -> Iterator[slice]:
    for start in range(0, size, _SLICE_BYTES):
        yield slice(start, min(start + _SLICE_BYTES, size))
