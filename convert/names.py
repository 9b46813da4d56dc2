"""Name the arrays of a model in files for others."""

import math
from dataclasses import dataclass

from convert.hf_llama import ROWS
from convert.lazy_field import TensorRow

_LLAMA = "llama/"
_BLOCKS = "blocks/"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: one of our arrays, or one layer of it."""

    name: str
    """The name in the file."""
    shape: tuple[int, ...]
    """The shape in the file; the order of the values is that of our array."""
    layer: int | None = None
    """The layer of our array, if it is stacked over layers."""


def tensors_of(path: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Returns the tensors that one of our arrays becomes.

    Arrays of Llama get Hugging Face's names, one tensor for each layer. All others
    are named by their path, with dots and after `eqids.`.

    Args:
        path: of the array in an `EqIDs`, such as llama/blocks/wq.
        shape: of the array.
    """
    field = path.removeprefix(_LLAMA).removeprefix(_BLOCKS)
    row = next((row for row in ROWS if row.field == field), None)
    if not path.startswith(_LLAMA) or row is None:
        return [Tensor(f"eqids.{path.replace('/', '.')}", shape)]
    if "{}" not in row.key:
        return [Tensor(row.key, shape)]
    one = _joined(row, shape[1:])
    return [Tensor(row.key.format(n), one, n) for n in range(shape[0])]


def _joined(row: TensorRow, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in the file, in which several of our axes may be one."""
    sizes = iter(shape)
    counts = [axis.count("*") + 1 for axis in row.axes]
    return tuple(math.prod(next(sizes) for _ in range(count)) for count in counts)
