"""What our arrays are called in files for others."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from convert.hf_llama import ROWS, Row

_LLAMA = "llama/"
_BLOCKS = "blocks/"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file, which is one of our arrays or a layer of it."""

    name: str
    """In the file."""
    shape: tuple[int, ...]
    """In the file; the order of values is ours."""
    layer: int | None = None
    """Its place on the array's first axis, where it is a layer."""


def path_of(route: Any) -> str:
    """Returns the path of a leaf in a model as text: llama/blocks/wq."""
    return jax.tree_util.keystr(route, simple=True, separator="/")


def tensors_of(path: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Returns the tensors that an array of a model becomes.

    Llama's are Hugging Face's, layer by layer; all others keep their path, after
    `eqids.` and with dots.

    Args:
        path: the array's in an `EqIDs`, such as llama/blocks/wq.
        shape: its whole shape.
    """
    field = path.removeprefix(_LLAMA).removeprefix(_BLOCKS)
    row = next((row for row in ROWS if row.field == field), None)
    if not path.startswith(_LLAMA) or row is None:
        return [Tensor(f"eqids.{path.replace('/', '.')}", shape)]
    if "{}" not in row.key:
        return [Tensor(row.key, shape)]
    one = _joined(row, shape[1:])
    return [Tensor(row.key.format(n), one, n) for n in range(shape[0])]


def _joined(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which axes that are one of theirs are multiplied."""
    sizes = iter(shape)
    counts = [axis.count("*") + 1 for axis in row.axes]
    return tuple(math.prod(next(sizes) for _ in range(count)) for count in counts)
