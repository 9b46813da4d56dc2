"""How an array is cut into chunks: a regular grid whose cells never cross a shard."""

import itertools
import math
from collections.abc import Iterator

from eqids.checkpoints.manifest import ArrayRecord

Box = tuple[slice, ...]
"""A region of an array: start and stop on every axis."""

_CHUNK_BYTES = 32 << 20


def chunk_shape(
    shape: tuple[int, ...], shard: tuple[int, ...], itemsize: int
) -> tuple[int, ...]:
    """Shape of the chunks of an array: about 32 MiB, inside one shard.

    Leading axes are cut first, so that a chunk is contiguous in its shard. An axis
    that is sharded is cut into equal pieces only: a ragged one would cross shards.
    Where its size has no divisor that comes near, it stays whole, and the axes behind
    it are cut; where there are none, a chunk is larger, but it is never a sliver.
    """
    chunk = [max(1, size) for size in shard]
    for axis, size in enumerate(chunk):
        num_bytes = math.prod(chunk) * itemsize
        if num_bytes <= _CHUNK_BYTES:
            break
        wanted = max(1, size * _CHUNK_BYTES // num_bytes)
        if shard[axis] == shape[axis]:
            # The last chunk is stored as large as the others: it should be nearly so.
            chunk[axis] = math.ceil(size / math.ceil(size / wanted))
            continue
        divisor = _divisor_near(size, wanted)
        chunk[axis] = divisor or size
        if divisor is not None and divisor > wanted:
            break
    return tuple(chunk)


def _divisor_near(size: int, wanted: int) -> int | None:
    """The largest divisor up to what is wanted, or the least one above it; None if
    both are further from it than a factor of four."""
    below = next(n for n in range(wanted, 0, -1) if size % n == 0)
    if 4 * below >= wanted:
        return below
    return next((n for n in range(wanted + 1, 4 * wanted + 1) if size % n == 0), None)


def num_chunks(record: ArrayRecord) -> int:
    """Number of chunks in the whole grid; an empty array has none."""
    return math.prod(_grid(record))


def chunks_in(record: ArrayRecord, box: Box) -> Iterator[tuple[int, Box]]:
    """Number and extent of every chunk that meets `box` (start and stop given)."""
    if any(cut.start >= cut.stop for cut in box):
        return
    grid = _grid(record)
    ranges = [
        range(cut.start // size, -(-cut.stop // size))
        for cut, size in zip(box, record.chunk, strict=True)
    ]
    for place in itertools.product(*ranges):
        number = 0
        for row, length in zip(place, grid, strict=True):
            number = number * length + row
        yield (
            number,
            tuple(
                slice(row * size, min((row + 1) * size, stop))
                for row, size, stop in zip(
                    place, record.chunk, record.shape, strict=True
                )
            ),
        )


def whole(record: ArrayRecord) -> Box:
    """The box of all of an array."""
    return tuple(slice(0, size) for size in record.shape)


def within(box: Box, shape: tuple[int, ...]) -> Box:
    """The part of a box that lies in an array of this shape."""
    return tuple(
        slice(min(cut.start, size), min(cut.stop, size))
        for cut, size in zip(box, shape, strict=True)
    )


def shift(box: Box, origin: Box) -> Box:
    """The box seen from the start of another one."""
    return tuple(
        slice(cut.start - base.start, cut.stop - base.start)
        for cut, base in zip(box, origin, strict=True)
    )


def _grid(record: ArrayRecord) -> list[int]:
    pairs = zip(record.shape, record.chunk, strict=True)
    return [-(-size // chunk) for size, chunk in pairs]
