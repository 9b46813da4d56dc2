"""Copies shards into host memory, so that training cannot change them."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from eqids.checkpoints.store import Shard
from eqids.io.digests import array_bytes
from sharding import LazyArray, aligned

_SLICE_BYTES = 16 << 20
"""Bytes that one thread copies at a time."""
_NUM_THREADS = min(8, os.cpu_count() or 1)


class Staging:
    """Host memory for the copies of one save at a time.

    The memory is kept from one save to the next: the first use of fresh memory takes
    longer than the copy itself.
    """

    def __init__(self) -> None:
        self._memory = aligned(0)

    def copy(self, shards: Sequence[Shard]) -> list[Shard]:
        """Returns the shards with copies of their values, in host memory.

        The copies overwrite those of the call before. Values of an accelerator stay
        in the host memory that jax copies them to, which nothing else writes to.
        """
        for shard in [shard for shard in shards if not _on_host(shard)]:
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
        ranges, end = list[slice](), 0
        for source in sources:
            ranges.append(slice(end, end + source.nbytes))
            end += source.nbytes + -source.nbytes % 64
        if len(self._memory) < end:
            self._memory = aligned(0)  # frees the old memory before more is allocated
            self._memory = aligned(end)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            jobs = [
                pool.submit(np.copyto, self._memory[span][cut], source[cut])
                for span, values in zip(ranges, sources, strict=True)
                # NumPy has no bfloat16 and would copy it one value at a time.
                for source in [array_bytes(values)]
                for cut in _cuts(len(source))
            ]
            for job in jobs:
                job.result()
        return [
            self._memory[span].view(source.dtype).reshape(source.shape)
            for span, source in zip(ranges, sources, strict=True)
        ]


def held(shards: Sequence[Shard]) -> list[Shard]:
    """Returns shards whose values on the host are held as NumPy arrays, not copied."""
    return [
        dataclasses.replace(shard, values=np.asarray(shard.values))
        if _on_host(shard)
        else shard
        for shard in shards
    ]


def _on_host(shard: Shard) -> bool:
    """Returns whether NumPy would share the memory that a step may change."""
    values = shard.values
    assert not isinstance(values, LazyArray), "only `save` reads lazy arrays"
    if isinstance(values, np.ndarray):
        return True
    return "host" in (values.sharding.memory_kind or "") or any(
        device.platform == "cpu" for device in values.devices()
    )


def _cuts(size: int) -> Iterator[slice]:
    for start in range(0, size, _SLICE_BYTES):
        yield slice(start, min(start + _SLICE_BYTES, size))
