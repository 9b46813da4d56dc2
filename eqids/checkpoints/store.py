"""Stores arrays with tensorstore, with a digest for every chunk.

An array is a zarr3 array cut into chunks that never cross a shard, so that a process
writes and reads whole chunks. Chunks are collected into *parts*: OCDBT databases of
about 32 MiB, each written by one atomic transaction. Parts bound the host memory of
a save, because a transaction holds what it writes until it commits. They also hold
no unused bytes: every byte of a part belongs to a chunk, whose digest is in the
manifest, or to an OCDBT node, which holds its own CRC-32C. A chunk of some MiB has a
part of its own, whose data file begins with the chunk's values. The manifest says so,
and `reader.py` reads such values straight into an array, without tensorstore, and
compares the few other bytes of the part with the file's digest. Either way reading the
arrays detects any flipped bit, and no byte is read or hashed twice.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from eqids.checkpoints.chunks import Box, chunk_shape, chunks_in, shift, within
from eqids.checkpoints.leaves import Stored
from eqids.checkpoints.manifest import (
    ArrayRecord,
    ChunkRecord,
    FileRecord,
    files_below,
)
from eqids.io.digests import array_bytes, digest, file_digest
from sharding import LazyArray

PARTS = "arrays"
"""The folder of the parts in a checkpoint; a part is named `PROCESS-NUMBER`."""

_PART_BYTES = 32 << 20
# A larger chunk has a part of its own, whose file begins with the chunk's values.
_ALONE_BYTES = 4 << 20
_NUM_PARTS_AT_ONCE = 4
"""Parts written at a time: some are hashed while others wait for the disk."""
_EDGE_BYTES = 4096
# OCDBT keeps values up to this size in its nodes, which have a CRC-32C. zarr's
# metadata must be among them, because nothing else protects it.
_INLINE_BYTES = 4096


@dataclass(frozen=True)
class HostChunk:
    """The values of one chunk in host memory, to be written."""

    name: str
    """The array's name."""
    record: ArrayRecord
    """The array's description, its `chunks` still empty."""
    number: int
    """The chunk's index in C order of the grid."""
    box: Box
    """The part of the array that it covers."""
    values: Shaped[np.ndarray, "..."]
    """Contiguous."""


def describe(stored: Stored) -> ArrayRecord:
    """Returns the record of an array that is to be written, its `chunks` empty."""
    array, key, shape = stored
    shard = array.shape
    if isinstance(array, jax.Array):
        shard = array.sharding.shard_shape(array.shape)
    chunk = chunk_shape(array.shape, shard, array.dtype.itemsize)
    return ArrayRecord(shape, array.dtype.name, chunk, (), key)


@dataclass(frozen=True)
class Shard:
    """A part of an array that this process writes."""

    name: str
    """The array's name."""
    record: ArrayRecord
    """The array's description, its `chunks` still empty."""
    origin: Box
    """The part of the array that it covers; it may reach past the stored shape."""
    values: jax.Array | np.ndarray | LazyArray
    """On one device, in host memory, or read when they are written."""


def shards_of(arrays: Mapping[str, Stored]) -> list[Shard]:
    """Returns the shards of some arrays that this process writes; copies nothing.

    Only the first replica of a shard is written. Process 0 writes arrays that every
    process holds.
    """
    return [
        Shard(name, record, origin, values)
        for name, stored in arrays.items()
        for record in [describe(stored)]
        for origin, values in _shards(stored.array)
        if all(cut.start < cut.stop for cut in within(origin, record.shape))
    ]


def _chunks_of(shard: Shard) -> Iterator[HostChunk]:
    name, record, origin = shard.name, shard.record, shard.origin
    values = shard.values
    if not isinstance(values, LazyArray):
        values = np.asarray(values)
    for number, extent in chunks_in(record, within(origin, record.shape)):
        inner = shift(extent, origin)
        part = values.read(inner) if isinstance(values, LazyArray) else values[inner]
        chunk = np.asarray(part, order="C")
        yield HostChunk(name, record, number, extent, chunk)


@dataclass(frozen=True)
class Written:
    """The records of what was written, for the manifest."""

    chunks: dict[tuple[str, int], ChunkRecord]
    """By array and chunk number."""
    files: dict[str, FileRecord]
    """Files by their path in the checkpoint folder."""

    def add(self, more: "Written") -> None:
        """Adds what another part or process has written."""
        self.chunks.update(more.chunks)
        self.files.update(more.files)


def write_parts(folder: Path, shards: list[Shard]) -> Written:
    """Writes shards into parts below `folder`, a few parts at a time.

    Args:
        folder: the folder of the checkpoint.
        shards: what to write; the list is emptied to free host memory early.
    """
    chunks = itertools.chain.from_iterable(map(_chunks_of, _emptied(shards)))
    context = ts.Context()
    written = Written({}, {})
    running: deque[Future[Written]] = deque()
    with ThreadPoolExecutor(_NUM_PARTS_AT_ONCE) as pool:
        for number, batch in enumerate(_batches(chunks)):
            part = f"{jax.process_index()}-{number}"
            running.append(pool.submit(_write_part, folder, part, batch, context))
            # Meanwhile only the next part is copied to the host.
            if len(running) == _NUM_PARTS_AT_ONCE:
                written.add(running.popleft().result())
        for job in running:
            written.add(job.result())
    return written


def _emptied(shards: list[Shard]) -> Iterator[Shard]:
    shards.reverse()
    while shards:
        yield shards.pop()


def _shards(
    array: jax.Array | np.ndarray | LazyArray,
) -> Iterator[tuple[Box, jax.Array | np.ndarray | LazyArray]]:
    local = not isinstance(array, jax.Array) or array.is_fully_addressable
    if local and jax.process_index() != 0:
        return
    if not isinstance(array, jax.Array):
        yield tuple(slice(0, size) for size in array.shape), array
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            pairs = zip(shard.index, array.shape, strict=True)
            yield (
                tuple(slice(*cut.indices(size)[:2]) for cut, size in pairs),
                shard.data,
            )


def _batches(chunks: Iterable[HostChunk]) -> Iterator[list[HostChunk]]:
    batch: list[HostChunk] = []
    num_bytes = 0
    for chunk in chunks:
        if chunk.values.nbytes >= _ALONE_BYTES:
            yield [chunk]
            continue
        batch.append(chunk)
        num_bytes += chunk.values.nbytes
        if num_bytes >= _PART_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _write_part(
    folder: Path, part: str, batch: list[HostChunk], context: ts.Context
) -> Written:
    target = folder / PARTS / part
    target.mkdir(parents=True)
    transaction = ts.Transaction(atomic=True)
    stores: dict[str, Any] = {}
    for chunk in batch:
        if chunk.name not in stores:
            spec = array_spec(target, chunk.name, chunk.record)
            stores[chunk.name] = ts.open(
                spec, create=True, context=context, transaction=transaction
            ).result()
        stores[chunk.name][chunk.box].write(
            chunk.values, can_reference_source_data_indefinitely=True
        ).result()
    commit = transaction.commit_async()
    digests = [digest(array_bytes(chunk.values)) for chunk in batch]
    commit.result()
    files = files_below(target)
    direct = _begins_with(batch[0], files) if len(batch) == 1 else None
    return Written(
        {
            (chunk.name, chunk.number): ChunkRecord(part, found)
            for chunk, found in zip(batch, digests, strict=True)
        },
        {
            f"{PARTS}/{part}/{name}": _file_record(
                path, batch[0].values.nbytes if name == direct else 0
            )
            for name, path in files.items()
        },
    )


def _file_record(path: Path, start: int) -> FileRecord:
    return FileRecord(path.stat().st_size, file_digest(path, start=start), start)


def _begins_with(chunk: HostChunk, files: Mapping[str, Path]) -> str | None:
    """Returns the name of the file that begins with the values of a chunk.

    A chunk at an edge is stored padded: padding after the values is no obstacle,
    padding inside is. First and last bytes are compared; the digest of the values
    covers all of them whenever they are read.
    """
    values = array_bytes(chunk.values)
    if chunk.values.shape[1:] != chunk.record.chunk[1:] or len(values) < _ALONE_BYTES:
        return None
    edge = min(_EDGE_BYTES, len(values))
    for name, path in files.items():
        with path.open("rb") as file:
            first = file.read(edge)
            file.seek(len(values) - edge)
            if first == values[:edge] and file.read(edge) == values[-edge:]:
                return name
    return None


def array_spec(folder: Path, name: str, record: ArrayRecord) -> dict[str, Any]:
    """Returns tensorstore's spec of an array; missing chunks are errors, not zeros."""
    chunk = {"name": "regular", "configuration": {"chunk_shape": list(record.chunk)}}
    return {
        "driver": "zarr3",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder.resolve()}/"},
            "path": f"{name}/",
            "config": {"max_inline_value_bytes": _INLINE_BYTES, "compression": None},
        },
        "metadata": {
            "shape": list(record.shape),
            "data_type": record.dtype,
            "chunk_grid": chunk,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
        },
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }
