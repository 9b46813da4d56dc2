"""Reads boxes of stored arrays, and compares every chunk with its digest.

Chunks are read in parallel. Values that a file begins with go straight to their place
in the array, and are hashed there a block at a time; tensorstore reads the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from eqids.checkpoints.chunks import Box, chunks_in, shift, whole, within
from eqids.checkpoints.manifest import (
    ArrayRecord,
    ChunkRecord,
    DamageError,
    FileRecord,
    Manifest,
    content_problems,
    damaged_file,
    step_label,
)
from eqids.checkpoints.store import PARTS, array_spec
from eqids.config import UserError
from eqids.io.cores import num_cores
from eqids.io.digests import Hasher, ReportBytes, array_bytes, digest, file_digest
from eqids.io.reading import read_into, scan
from sharding import aligned

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
        # About half of the threads wait for the disk at a time.
        self._pool = ThreadPoolExecutor(2 * num_cores())
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

    def problems(self, advance: ReportBytes | None = None) -> list[str]:
        """Reads every chunk of every array without keeping it.

        Args:
            advance: called with the bytes of every chunk that was read.

        Returns:
            One sentence for each damaged array; see `read`.
        """
        jobs = [
            (name, self._pool.submit(self._compare, name, record, number, extent))
            for name, record in self._manifest.arrays.items()
            for number, extent in chunks_in(record, whole(record))
        ]
        found: dict[str, str] = {}
        for name, job in jobs:
            try:
                num_bytes = job.result()
            except UserError as error:
                found.setdefault(name, str(error))
                continue
            if advance is not None:
                advance(num_bytes)
        return list(found.values())

    def _begin(self, name: str, box: Box) -> _Reading:
        record = self._manifest.arrays[name]
        shape = tuple(cut.stop - cut.start for cut in box)
        values = _aligned(record, shape)
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
            if common == extent:
                self._fill(name, record.chunks[number], extent, target)
                return target.nbytes
            got = _aligned(record, tuple(cut.stop - cut.start for cut in extent))
            self._fill(name, record.chunks[number], extent, got)
            target[...] = got[shift(common, extent)]
            return got.nbytes

        chunks = chunks_in(record, stored)
        return _Reading(values, [self._pool.submit(fill, *chunk) for chunk in chunks])

    def _fill(
        self,
        name: str,
        chunk: ChunkRecord,
        extent: Box,
        target: Shaped[np.ndarray, "..."],
    ) -> None:
        """Reads a chunk into an array of its size, and compares its digest."""
        file = self._direct.get(chunk.part)
        if file is not None and target.flags.c_contiguous:
            into, path = target.reshape(-1).view(np.uint8), self._path / file
            self._directly(name, chunk, lambda look: read_into(path, 0, into, look))
            return
        try:
            source = self._store(chunk.part, name)[extent]
            ts.array(target, copy=False).write(source).result()
        except Exception as error:  # tensorstore raises many types
            raise self._damage(name, chunk.part, str(error)) from error
        self._check(name, chunk, digest(array_bytes(target), chunk.digest))

    def _compare(self, name: str, record: ArrayRecord, number: int, extent: Box) -> int:
        """Reads a chunk without keeping it; returns its size."""
        chunk, shape = record.chunks[number], [cut.stop - cut.start for cut in extent]
        file = self._direct.get(chunk.part)
        if file is None:
            values = _aligned(record, tuple(shape))
            self._fill(name, chunk, extent, values)
            return values.nbytes
        path = self._path / file
        num_bytes = int(np.prod(shape)) * jax.numpy.dtype(record.dtype).itemsize
        self._directly(name, chunk, lambda look: scan(path, 0, num_bytes, look))
        return num_bytes

    def _directly(
        self,
        name: str,
        chunk: ChunkRecord,
        read: Callable[[Callable[[np.ndarray], object]], int],
    ) -> None:
        """Reads values that a file begins with, and compares all bytes of their part.

        Args:
            name: the array's.
            chunk: the chunk.
            read: reads the values, and calls its argument for every block.
        """
        values = Hasher(chunk.digest)
        try:
            read(lambda block: values.update(block.data))
            for other, record in self._files_by_part[chunk.part].items():
                path, start = self._path / other, record.start
                if file_digest(path, record.digest, start=start) != record.digest:
                    raise self._damage(name, chunk.part, damaged_file(other))
        except OSError as error:
            raise self._damage(name, chunk.part, str(error)) from error
        self._check(name, chunk, values.text)

    def _check(self, name: str, chunk: ChunkRecord, found: str) -> None:
        if found == chunk.digest:
            return
        file = self._direct.get(chunk.part)
        reason = "its digest differs from the manifest's"
        raise self._damage(name, chunk.part, damaged_file(file) if file else reason)

    @cached_property
    def _files_by_part(self) -> Mapping[str, Mapping[str, FileRecord]]:
        found: dict[str, dict[str, FileRecord]] = {}
        for name, record in self._manifest.files.items():
            folder, _, rest = name.partition("/")
            if folder == PARTS:
                found.setdefault(rest.partition("/")[0], {})[name] = record
        return found

    @cached_property
    def _direct(self) -> Mapping[str, str]:
        """The file of each part that begins with the values of the part's only
        chunk."""
        return {
            part: name
            for part, files in self._files_by_part.items()
            for name, record in files.items()
            if record.start > 0
        }

    @cached_property
    def _context(self) -> ts.Context:
        # With a cache, OCDBT reads its nodes once per part and not once per chunk.
        return ts.Context({"cache_pool": {"total_bytes_limit": 64 << 20}})

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


def _aligned(record: ArrayRecord, shape: tuple[int, ...]) -> np.ndarray:
    """Returns uninitialised memory for a part of an array, as XLA can use it."""
    dtype = jax.numpy.dtype(record.dtype)
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return aligned(num_bytes).view(dtype).reshape(shape)
