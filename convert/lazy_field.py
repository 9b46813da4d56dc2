"""Fields of a Llama as lazy arrays, made of the tensors of a file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from convert.finite import all_finite
from convert.stored_tensor import StoredTensor
from eqids.io.reading import reading_pool
from sharding import LazyArray, Slices, aligned


@dataclass(frozen=True)
class TensorRow:
    """One kind of tensor: its key in the file, our field, and its axes in the file.

    A key with `{}` means one tensor for each layer. Axes joined by `*` are one axis in
    the file and several in our field.
    """

    key: str
    field: str
    axes: tuple[str, ...]


@runtime_checkable
class Indexed(Protocol):
    """A tensor that reads what is indexed."""

    def __getitem__(self, box: Slices, /) -> np.ndarray:
        """Returns a part of it."""


def lazy_array(
    row: TensorRow,
    parts: Sequence[Indexed],
    shape: tuple[int, ...],
    dtype: np.dtype,
    infinite: set[str] | None = None,
) -> LazyArray:
    """Returns one field as a lazy array, all its layers.

    Args:
        row: the axes of the field's tensors.
        parts: the tensors, one for each layer if the field is stacked.
        shape: of the field.
        dtype: what the values are cast to.
        infinite: receives the keys of `StoredTensor`s whose values, where they were
            read, are not finite after the cast.
    """
    stacked = "{}" in row.key
    sizes = shape[1:] if stacked else shape

    def read(box: Slices) -> np.ndarray:
        layers, inner = (box[0], box[1:]) if stacked else (slice(0, 1), box)
        outer, shape, within = _in_file(row, inner, sizes)
        into = [_size(at) for at in (layers, *inner)]
        out = aligned(math.prod(into) * dtype.itemsize).view(dtype).reshape(into)
        found = [
            _read(part, outer, shape, within, out[number])
            for number, part in enumerate(parts[layers])
        ]
        for part, checks in zip(parts[layers], found, strict=True):
            fine = all([check() for check in checks])
            if not fine and infinite is not None and isinstance(part, StoredTensor):
                infinite.add(part.key)
        return out if stacked else out[0]

    return LazyArray(shape, dtype, read)


def _read(
    part: Indexed,
    outer: Slices,
    shape: tuple[int, ...],
    within: Slices,
    out: np.ndarray,
) -> list[Callable[[], bool]]:
    """Begins to read a box of a tensor into an array; see `_in_file`.

    Returns:
        Functions that wait until a part was read, and return whether it is finite.
    """
    rows = outer[0]
    if not isinstance(part, StoredTensor):
        out[...] = part[outer].reshape(shape)[within]
        return []
    if part.num_values(rows) != out.size:
        out[...] = part[outer].reshape(shape)[within]
        return [partial(all_finite, out)]
    flat, size = out.reshape(-1), out.size // max(1, _size(rows))
    checks: list[Callable[[], bool]] = []
    for some in part.jobs(rows):
        first = (some.start - rows.start) * size
        target = flat[first : first + _size(some) * size]
        checks.append(reading_pool().submit(part.fill, some, target).result)
    return checks


def _in_file(
    row: TensorRow, box: Slices, sizes: tuple[int, ...]
) -> tuple[Slices, tuple[int, ...], Slices]:
    """Returns which box of a tensor to read for a box of our field.

    If several of our axes are one axis in the file, the first is cut in the file and
    the others after reading.

    Returns:
        The box in the file, its shape in our axes, and our box within it.
    """
    outer: list[slice] = []
    shape: list[int] = []
    within: list[slice] = []
    first = 0
    for axis in row.axes:
        last = first + len(axis.split("*"))
        unit = math.prod(sizes[first + 1 : last])
        outer.append(slice(box[first].start * unit, box[first].stop * unit))
        shape += [_size(box[first]), *sizes[first + 1 : last]]
        within += [slice(None), *box[first + 1 : last]]
        first = last
    return tuple(outer), tuple(shape), tuple(within)


def _size(at: slice) -> int:
    return at.stop - at.start
