"""Collects the nodes and weights of a graph; nothing here needs the onnx package."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from convert.outputs import Weight, row_ranges
from eqids.config import require

Operand: TypeAlias = "str | np.ndarray | np.generic"
"""A tensor by its name, or the value of a constant."""


@dataclass(frozen=True)
class GraphNode:
    """One operator of a graph; its first output has the node's name."""

    operator: str
    """Of ONNX, such as "MatMul"."""
    inputs: Sequence[str]
    """Names of tensors."""
    outputs: Sequence[str]
    """Names of tensors."""
    attributes: Mapping[str, Any]
    """By name."""


class GraphBuilder:
    """A graph that grows node by node.

    Attributes:
        nodes: in an order in which each one's inputs come before it.
        constants: small tensors, which the graph holds.
        weights: tensors of the model, which a file beside the graph holds.
    """

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.constants: dict[str, np.ndarray] = {}
        self.weights: dict[str, Weight] = {}

    def __call__(
        self, operator: str, *inputs: Operand, name: str, **attributes: Any
    ) -> str:
        """Adds a node with one output; returns its name.

        Args:
            operator: of ONNX.
            inputs: names of tensors, or constants.
            name: of the node and of its output.
            attributes: of the operator.
        """
        return self.several(operator, *inputs, names=[name], **attributes)[0]

    def several(
        self, operator: str, *inputs: Operand, names: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Adds a node with several outputs; returns their names."""
        own = [
            one if isinstance(one, str) else self.constant(f"{names[0]}.{i}", one)
            for i, one in enumerate(inputs)
        ]
        self.nodes.append(GraphNode(operator, own, names, attributes))
        return names

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Adds a small tensor; returns its name."""
        assert name not in self.constants, name
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str, weight: Weight) -> str:
        """Adds a tensor of the model, once; returns its name."""
        self.weights.setdefault(name, weight)
        return name


def ints(*values: int) -> np.ndarray:
    """Returns whole numbers as operators take axes and shapes."""
    return np.array(values, np.int64)


def float32(weight: Weight, name: str) -> Weight:
    """Returns a tensor in float32.

    Args:
        weight: the tensor.
        name: for messages.

    Raises:
        UserError: (when it is written) a value is not finite.
    """

    def parts() -> Iterator[np.ndarray]:
        for part in weight.parts():
            cast = part.astype(np.float32)
            finite = bool(np.isfinite(cast).all())
            require(finite, f"{name} has values that are not finite, wanted numbers")
            yield cast

    return Weight(weight.shape, np.dtype(np.float32), parts)


def transposed(weight: Weight) -> Weight:
    """Returns a matrix with its axes exchanged; it is in memory while it is written."""
    num_rows, num_columns = weight.shape

    def parts() -> Iterator[np.ndarray]:
        whole = np.empty((num_rows, num_columns), weight.dtype)
        start = 0
        for part in weight.parts():
            part = part.reshape(-1, num_columns)
            whole[start : start + len(part)] = part
            start += len(part)
        for columns in row_ranges(num_columns, num_rows * weight.dtype.itemsize):
            yield np.ascontiguousarray(whole[:, columns].T)

    return Weight((num_columns, num_rows), weight.dtype, parts)


def reshaped(weight: Weight, *shape: int) -> Weight:
    """Returns a tensor of the same values in another shape."""
    return replace(weight, shape=shape)
