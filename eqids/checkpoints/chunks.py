"""Cuts an array into chunks: a regular grid whose chunks never cross a shard."""

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
    """Returns the shape of the chunks of an array: about 32 MiB, inside one shard.

    Leading axes are cut first, so that a chunk is contiguous in its shard. A sharded
    axis is cut into equal pieces only, because a shorter last piece would cross shards.
    If its size has no divisor close to the wanted length, the next axes are cut
    instead; if no axis is left, the chunk is larger than 32 MiB.

    Args:
        shape: the shape of the array.
        shard: shape of one shard.
        itemsize: bytes of one value.
    """
    chunk = [max(1, size) for size in shard]
    for axis, size in enumerate(chunk):
        num_bytes = math.prod(chunk) * itemsize
        if num_bytes <= _CHUNK_BYTES:
            break
        wanted = max(1, size * _CHUNK_BYTES // num_bytes)
        if shard[axis] == shape[axis]:
            # The last chunk is stored padded, so its size should be close to the
            # others'.
            chunk[axis] = math.ceil(size / math.ceil(size / wanted))
            continue
        divisor = _divisor_near(size, wanted)
        chunk[axis] = divisor or size
        if divisor is not None and divisor > wanted:
            break
    return tuple(chunk)


def _divisor_near(size: int, wanted: int) -> int | None:
    """Returns the largest divisor up to `wanted`, or the smallest one above it.

    None if both differ from it by more than a factor of four.
    """
    below = next(n for n in range(wanted, 0, -1) if size % n == 0)
    if 4 * below >= wanted:
        return below
    return next((n for n in range(wanted + 1, 4 * wanted + 1) if size % n == 0), None)


def num_chunks(record: ArrayRecord) -> int:
    """Returns the number of chunks of an array; an empty array has none."""
    return math.prod(_grid(record))


def chunks_in(record: ArrayRecord, box: Box) -> Iterator[tuple[int, Box]]:
    """Yields the number and the box of every chunk that overlaps `box`.

    Args:
        record: the record of the array.
        box: slices with start and stop.
    """
    if any(cut.start >= cut.stop for cut in box):
        return
    grid = _grid(record)
    ranges = [
        range(cut.start // size, -(-cut.stop // size))
        for cut, size in zip(box, record.chunk, strict=True)
    ]
    for index in itertools.product(*ranges):
        number = 0
        for row, length in zip(index, grid, strict=True):
            number = number * length + row
        axes = zip(index, record.chunk, record.shape, strict=True)
        yield (
            number,
            tuple(
                slice(row * size, min((row + 1) * size, stop))
                for row, size, stop in axes
            ),
        )


def whole(record: ArrayRecord) -> Box:
    """Returns the box that holds a whole array."""
    return tuple(slice(0, size) for size in record.shape)


def within(box: Box, shape: tuple[int, ...]) -> Box:
    """Returns the part of a box that lies inside an array of this shape."""
    return tuple(
        slice(min(cut.start, size), min(cut.stop, size))
        for cut, size in zip(box, shape, strict=True)
    )


def shift(box: Box, origin: Box) -> Box:
    """Returns a box relative to the start of another box."""
    return tuple(
        slice(cut.start - base.start, cut.stop - base.start)
        for cut, base in zip(box, origin, strict=True)
    )


def _grid(record: ArrayRecord) -> list[int]:
    pairs = zip(record.shape, record.chunk, strict=True)
    return [-(-size // chunk) for size, chunk in pairs]
