"""A graph as a file of ONNX whose weights are in a safetensors file beside it.

External data of ONNX is a range of bytes in a file. So one file serves both: readers of
safetensors find the tensors by name, and runtimes map them into memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.outputs import Weight
from eqids.export.onnx_graph.graph_builder import GraphBuilder, GraphNode

OPSET, IR_VERSION = 18, 8
"""Versions of the operators and of the format: of 2022, so that older runtimes read
them. TensorRT 10 takes opsets 9 to 20."""
WEIGHTS_FILE = "weights.safetensors"

GraphShapes = Mapping[str, tuple[str, Sequence[str | int]]]
"""Dtypes (NumPy's names) and axes of tensors by name: a size, or a word for a free
one."""


def graph_bytes(
    g: GraphBuilder, inputs: GraphShapes, outputs: GraphShapes, weights_file: Path
) -> bytes:
    """Returns the file of a graph; needs the package onnx.

    Args:
        g: the graph.
        inputs: its inputs.
        outputs: its outputs.
        weights_file: holds its weights; it lies beside the graph's file.
    """
    from onnx import helper, numpy_helper

    spans = _spans(weights_file)
    external = [
        _external(name, one, *spans[name], weights_file.name)
        for name, one in g.weights.items()
    ]
    constants = [numpy_helper.from_array(x, n) for n, x in g.constants.items()]
    graph = helper.make_graph(
        [_node(one) for one in g.nodes],
        "recommender",
        [*_infos(inputs)],
        [*_infos(outputs)],
        [*external, *constants],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="EqIDs",
    )
    return bytes(model.SerializeToString(deterministic=True))


def check_graph(file: Path) -> None:
    """Raises an error of onnx if a file is no valid graph, or lacks its weights."""
    from onnx import checker

    checker.check_model(str(file), full_check=True)


def _spans(file: Path) -> Mapping[str, tuple[int, int]]:
    """Returns where a safetensors file holds each tensor: its offset and its length."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    found = {name: one["data_offsets"] for name, one in header.items()}
    return {name: (8 + size + a, b - a) for name, (a, b) in found.items()}


def _external(name: str, weight: Weight, offset: int, length: int, file: str) -> Any:
    from onnx import TensorProto

    proto = TensorProto(
        name=name,
        data_type=_type_of(str(weight.dtype)),
        dims=weight.shape,
        data_location=TensorProto.EXTERNAL,
    )
    entries = {"location": file, "offset": str(offset), "length": str(length)}
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)
    return proto


def _node(node: GraphNode) -> Any:
    from onnx import helper

    attributes = dict(node.attributes)
    if node.operator == "Cast":
        attributes["to"] = _type_of(attributes["to"])
    return helper.make_node(
        node.operator, node.inputs, node.outputs, name=node.outputs[0], **attributes
    )


def _infos(tensors: GraphShapes) -> Iterator[Any]:
    from onnx import helper

    for name, (dtype, shape) in tensors.items():
        yield helper.make_tensor_value_info(name, _type_of(dtype), shape)


def _type_of(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
