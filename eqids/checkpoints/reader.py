"""Reads boxes of stored arrays, and compares every chunk with its SHA-256."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from eqids.checkpoints.chunks import Box, chunks_in, shift, within
from eqids.checkpoints.manifest import (
    DamageError,
    Manifest,
    content_problems,
    step_label,
)
from eqids.checkpoints.store import PARTS, array_spec, sha256
from eqids.io.digests import ReportBytes
from sharding import aligned

_NUM_WORKERS = min(16, 2 * (os.cpu_count() or 1))
"""Threads that read chunks; about half of them wait for the disk at a time."""
_AHEAD_BYTES = 256 << 20
"""Bytes that are read ahead."""


@dataclass(frozen=True)
class _Reading:
    """A box that is being read."""

    values: Shaped[np.ndarray, "..."]
    """Filled while the chunks are read."""
    chunks: Sequence[Future[int]]
    """The size in bytes of each chunk, once it has been read and compared."""


class Reader:
    """Reads boxes of the arrays of one checkpoint; a context manager."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        # With a cache, OCDBT reads its nodes once per part and not once per chunk.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 64 << 20}})
        self._pool = ThreadPoolExecutor(_NUM_WORKERS)
        self._stores: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(
        self, name: str, box: Box, advance: ReportBytes | None = None
    ) -> Shaped[np.ndarray, "..."]:
        """Returns the values of an array inside a box, zeros past the array's end.

        Chunks that overlap the box are read whole, because a digest covers a chunk.

        Args:
            name: the name of the array.
            box: what to read.
            advance: called for every chunk that was read.

        Raises:
            DamageError: a chunk is missing or damaged; the message names step, array
                and file.
        """
        (values,) = self.read_each([(name, box)], advance)
        return values

    def read_each(
        self, boxes: Iterable[tuple[str, Box]], advance: ReportBytes | None = None
    ) -> Iterator[Shaped[np.ndarray, "..."]]:
        """Yields the values of boxes in their order, while the next ones are read.

        Args:
            boxes: names of arrays with a box of each; see `read`.
            advance: called for every chunk that was read.

        Raises:
            DamageError: as `read` does, when the damaged box would be yielded.
        """
        begun, ahead = deque[_Reading](), 0

        def first() -> Shaped[np.ndarray, "..."]:
            reading = begun.popleft()
            for chunk in reading.chunks:
                num_bytes = chunk.result()
                if advance is not None:
                    advance(num_bytes)
            return reading.values

        for name, box in boxes:
            begun.append(self._begin(name, box))
            ahead += begun[-1].values.nbytes
            while ahead > _AHEAD_BYTES:
                values = first()
                ahead -= values.nbytes
                yield values
        while begun:
            yield first()

    def _begin(self, name: str, box: Box) -> _Reading:
        record = self._manifest.arrays[name]
        shape = tuple(cut.stop - cut.start for cut in box)
        dtype = jax.numpy.dtype(record.dtype)
        values = aligned(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
        stored = within(box, record.shape)
        if stored != box:
            values[...] = 0

        def fill(number: int, extent: Box) -> int:
            common = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(extent, box, strict=True)
            )
            index: tuple[Any, ...] = (*shift(common, box), ...)  # `...`: a view, always
            target = values[index]
            part, digest = record.chunks[number]
            try:
                source = self._store(part, name)[extent]
                if common == extent:
                    ts.array(target, copy=False).write(source).result()
                    got = target
                else:
                    got = source.read().result()
            except Exception as error:  # tensorstore raises many types
                raise self._damage(name, part, str(error)) from error
            if sha256(got) != digest:
                raise self._damage(
                    name, part, "its SHA-256 differs from the manifest's"
                )
            if got is not target:
                target[...] = got[shift(common, extent)]
            return got.nbytes

        chunks = chunks_in(record, stored)
        return _Reading(values, [self._pool.submit(fill, *chunk) for chunk in chunks])

    def _store(self, part: str, name: str) -> Any:
        if (part, name) not in self._stores:
            record = self._manifest.arrays[name]
            spec = array_spec(self._path / PARTS / part, name, record)
            opened = ts.open(spec, open=True, context=self._context).result()
            self._stores[part, name] = opened
        return self._stores[part, name]

    def _damage(self, name: str, part: str, reason: str) -> DamageError:
        below = f"{PARTS}/{part}/"
        files = content_problems(self._path, self._manifest, below)
        where = files[0].split(": ", 1)[1] if files else reason.split(" [", 1)[0]
        return DamageError(
            f"{step_label(self._path)}: array {name!r} cannot be read from "
            f"{below}: {where}"
        )
