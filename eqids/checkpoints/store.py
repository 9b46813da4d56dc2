"""Arrays on disk: tensorstore, a digest for every chunk, parts of bounded size.

An array is a zarr3 array cut into chunks that never cross a shard, so that whoever
holds a shard writes and reads whole chunks. Chunks are gathered into *parts*: OCDBT
databases of about 32 MiB, each written by one atomic transaction. That bounds
the host memory of a save (a transaction holds what it writes until it commits) and
leaves no dead bytes: in a part every byte belongs to a chunk, whose SHA-256 is in
the manifest, or to an OCDBT node, whose CRC-32C is in the node. Reading the arrays
therefore reveals any flipped bit, with no second pass over the files.
"""

import hashlib
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
from eqids.checkpoints.manifest import ArrayRecord, FileRecord, files_below
from eqids.io.digests import file_sha256

PARTS = "arrays"
"""Folder of the parts inside a checkpoint; a part is `PROCESS-NUMBER`."""

_PART_BYTES = 32 << 20
# Larger chunks have a part of their own, whose file begins with their values: its
# SHA-256 goes on from theirs, and every byte is hashed once.
_ALONE_BYTES = 4 << 20
_NUM_PARTS_AT_ONCE = 4
"""While some wait for the disk, others are hashed."""
_EDGE_BYTES = 4096
# OCDBT keeps values up to this size inside its own nodes, where a CRC-32C guards
# them: zarr's metadata must be among them, for nothing else checks it.
_INLINE_BYTES = 4096


@dataclass(frozen=True)
class Block:
    """One chunk's values on the host, on their way to disk."""

    name: str
    """The array's name."""
    record: ArrayRecord
    """The array's description, its `chunks` still empty."""
    number: int
    """The chunk's place in C order of the grid."""
    box: Box
    """Where it lies in the array."""
    values: Shaped[np.ndarray, "..."]
    """Contiguous."""


def describe(stored: Stored) -> ArrayRecord:
    """The record of an array that is about to be written, without its chunks."""
    array, key, shape = stored
    shard = array.shape
    if isinstance(array, jax.Array):
        shard = array.sharding.shard_shape(array.shape)
    chunk = chunk_shape(array.shape, shard, array.dtype.itemsize)
    return ArrayRecord(shape, array.dtype.name, chunk, (), key)


@dataclass(frozen=True)
class Shard:
    """A part of an array that this process is to write."""

    name: str
    """The array's name."""
    record: ArrayRecord
    """The array's description, its `chunks` still empty."""
    origin: Box
    """Where it lies in the array; it may end, or lie, past what is stored."""
    values: jax.Array | np.ndarray
    """On one device or on the host."""


def shards_of(arrays: Mapping[str, Stored]) -> list[Shard]:
    """What this process is to write of some arrays; nothing is moved yet.

    Of equal copies of a shard only the first is taken, and an array that every
    process holds is process 0's.
    """
    return [
        Shard(name, record, origin, values)
        for name, stored in arrays.items()
        for record in [describe(stored)]
        for origin, values in _shards(stored.array)
        if all(cut.start < cut.stop for cut in within(origin, record.shape))
    ]


def _blocks_of(shard: Shard) -> Iterator[Block]:
    """The chunks of a shard, which comes to the host by itself."""
    name, record, origin = shard.name, shard.record, shard.origin
    values = np.asarray(shard.values)
    for number, extent in chunks_in(record, within(origin, record.shape)):
        inner = shift(extent, origin)
        yield Block(name, record, number, extent, np.asarray(values[inner], order="C"))


@dataclass(frozen=True)
class Written:
    """What came to be on disk, for the manifest."""

    chunks: dict[tuple[str, int], tuple[str, str]]
    """(array, chunk number) -> (part, SHA-256 of the values)."""
    files: dict[str, FileRecord]
    """Files by path in the checkpoint folder."""

    def add(self, more: "Written") -> None:
        """Takes in what another part or process has written."""
        self.chunks.update(more.chunks)
        self.files.update(more.files)


def write_parts(folder: Path, shards: list[Shard]) -> Written:
    """Writes shards into parts below `folder`, a few parts at a time.

    Args:
        folder: the checkpoint's.
        shards: emptied on the way, so that what came to the host can leave it.
    """
    blocks = itertools.chain.from_iterable(map(_blocks_of, _emptied(shards)))
    context = ts.Context()
    written = Written({}, {})
    running: deque[Future[Written]] = deque()
    with ThreadPoolExecutor(_NUM_PARTS_AT_ONCE) as pool:
        for number, batch in enumerate(_batches(blocks)):
            part = f"{jax.process_index()}-{number}"
            running.append(pool.submit(_write_part, folder, part, batch, context))
            # While these are written the next comes to the host, but no more.
            if len(running) == _NUM_PARTS_AT_ONCE:
                written.add(running.popleft().result())
        for job in running:
            written.add(job.result())
    return written


def _emptied(shards: list[Shard]) -> Iterator[Shard]:
    shards.reverse()
    while shards:
        yield shards.pop()


def _shards(array: jax.Array | np.ndarray) -> Iterator[tuple[Box, Any]]:
    local = isinstance(array, np.ndarray) or array.is_fully_addressable
    if local and jax.process_index() != 0:
        return
    if isinstance(array, np.ndarray):
        yield tuple(slice(0, size) for size in array.shape), array
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            pairs = zip(shard.index, array.shape, strict=True)
            yield (
                tuple(slice(*cut.indices(size)[:2]) for cut, size in pairs),
                shard.data,
            )


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    batch: list[Block] = []
    num_bytes = 0
    for block in blocks:
        if block.values.nbytes >= _ALONE_BYTES:
            yield [block]
            continue
        batch.append(block)
        num_bytes += block.values.nbytes
        if num_bytes >= _PART_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(_bytes(values)).hexdigest()


def _write_part(
    folder: Path, part: str, batch: list[Block], context: ts.Context
) -> Written:
    place = folder / PARTS / part
    place.mkdir(parents=True)
    transaction = ts.Transaction(atomic=True)
    stores: dict[str, Any] = {}
    for block in batch:
        if block.name not in stores:
            spec = array_spec(place, block.name, block.record)
            stores[block.name] = ts.open(
                spec, create=True, context=context, transaction=transaction
            ).result()
        stores[block.name][block.box].write(
            block.values, can_reference_source_data_indefinitely=True
        ).result()
    commit = transaction.commit_async()
    digests = [hashlib.sha256(_bytes(block.values)) for block in batch]
    commit.result()
    first = batch[0]
    # A chunk is stored as large as its grid's: padded inside, it is no beginning.
    contiguous = first.values.shape[1:] == first.record.chunk[1:]
    begins = (first.values, digests[0]) if len(batch) == 1 and contiguous else None
    return Written(
        {
            (block.name, block.number): (part, digest.hexdigest())
            for block, digest in zip(batch, digests, strict=True)
        },
        {
            f"{PARTS}/{part}/{name}": FileRecord(
                path.stat().st_size, _file_sha256(path, begins)
            )
            for name, path in files_below(place).items()
        },
    )


def _file_sha256(path: Path, begins: tuple[np.ndarray, Any] | None) -> str:
    """SHA-256 of a file, of which the beginning may have been hashed already.

    Args:
        path: the file.
        begins: values that it may begin with, and their digest.
    """
    if begins is None:
        return file_sha256(path)
    values, digest = _bytes(begins[0]), begins[1].copy()
    edge = min(_EDGE_BYTES, len(values))
    with path.open("rb") as file:
        first = file.read(edge)
        file.seek(len(values) - edge)
        if first != values[:edge] or file.read(edge) != values[len(values) - edge :]:
            return file_sha256(path)
        digest.update(file.read())
    return digest.hexdigest()


def _bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def array_spec(folder: Path, name: str, record: ArrayRecord) -> dict[str, Any]:
    """How tensorstore finds an array; both guards against silent zeros are on."""
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
