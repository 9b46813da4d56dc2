"""The configuration for Triton, by its schema and by the graph that it describes."""

from typing import Any

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)

from eqids.export.exported_programs import program_inputs
from eqids.export.triton_config import shape_ranges, triton_config

TYPES = {"TYPE_BOOL": 1, "TYPE_INT32": 8, "TYPE_FP32": 11}
"""Values of Triton's enum DataType."""
FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "ModelConfig": {
        "name": (1, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "*ModelInput"),
        "output": (6, "*ModelOutput"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
        "optimization": (12, "ModelOptimizationPolicy"),
        "model_warmup": (16, "*ModelWarmup"),
        "backend": (17, "string"),
    },
    "ModelTensorReshape": {"shape": (1, "*int64")},
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (4, "*int64"),
        "reshape": (5, "ModelTensorReshape"),
    },
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "*int64"),
    },
    "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, "uint64")},
    "ModelWarmup": {
        "name": (1, "string"),
        "batch_size": (2, "uint32"),
        "inputs": (3, "*WarmupEntry"),
    },
    "WarmupEntry": {"key": (1, "string"), "value": (2, "WarmupInput")},
    "WarmupInput": {
        "data_type": (1, "DataType"),
        "dims": (2, "*int64"),
        "zero_data": (3, "bool"),
    },
    "ModelOptimizationPolicy": {"execution_accelerators": (4, "Accelerators")},
    "Accelerators": {"gpu_execution_accelerator": (1, "*Accelerator")},
    "Accelerator": {"name": (1, "string"), "parameters": (2, "*ParameterEntry")},
    "ParameterEntry": {"key": (1, "string"), "value": (2, "string")},
}
"""The fields that we use of Triton's model_config.proto (of July 2026): their numbers
and types; * is repeated. An entry of a map is a message of a key and a value."""


def model_config() -> Any:
    """The class of the message ModelConfig."""
    file = descriptor_pb2.FileDescriptorProto(
        name="model_config.proto", package="inference", syntax="proto3"
    )
    enum = file.enum_type.add(name="DataType")
    for name, number in {"TYPE_INVALID": 0, **TYPES}.items():
        enum.value.add(name=name, number=number)
    for message, fields in FIELDS.items():
        added = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = added.field.add(name=name, number=number)
            field.label = 3 if kind.startswith("*") else 1
            kind = kind.removeprefix("*")
            if kind in FIELDS or kind == "DataType":
                field.type = 11 if kind in FIELDS else 14
                field.type_name = f".inference.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("inference.ModelConfig")
    return message_factory.GetMessageClass(found)


def parsed(text: str) -> Any:
    """A configuration, read as Triton reads it: unknown fields are an error."""
    return text_format.Parse(text, model_config()())


SIZES = {
    "rows": 32, "length": 24, "excluded": 100, "masks": 32, "slots": 30, "k": 5
}  # fmt: skip


@pytest.mark.parametrize("tensorrt", [False, True])
def test_the_configuration_follows_the_schema(tensorrt: bool) -> None:
    inputs = program_inputs(reads_text=True, request_time=True)
    outputs = {"slots": "int32", "log_probs": "float32"}
    text = triton_config(inputs, outputs, SIZES, [16, 24], tensorrt=tensorrt)
    found = parsed(text)
    assert (found.name, found.backend) == ("eqids", "onnxruntime")
    assert found.max_batch_size == 32
    dims = {one.name: list(one.dims) for one in found.input}
    history = dict.fromkeys(("items", "gap", "tokens", "request_gap"), [-1])
    assert dims == {**history, "last": [1], "allowed": [30]}
    (last,) = (one for one in found.input if one.name == "last")
    assert last.HasField("reshape") and list(last.reshape.shape) == []
    assert [[one.name, list(one.dims)] for one in found.output] == [
        ["slots", [5]], ["log_probs", [5]],
    ]  # fmt: skip
    assert found.dynamic_batching.max_queue_delay_microseconds > 0
    sizes = [
        (one.batch_size, one.inputs[0].value.dims[0]) for one in found.model_warmup
    ]
    assert sizes == [(1, 16), (1, 24), (32, 16), (32, 24)]
    for one in found.model_warmup:
        assert {entry.key for entry in one.inputs} == dims.keys()
        assert all(entry.value.zero_data for entry in one.inputs)
    accelerators = found.optimization.execution_accelerators.gpu_execution_accelerator
    assert [one.name for one in accelerators] == ["tensorrt"] * tensorrt
    for one in accelerators:
        given = {entry.key: entry.value for entry in one.parameters}
        ranges = shape_ranges(inputs, SIZES)
        assert given["trt_profile_max_shapes"] == ranges["max"]
        assert "items:32x24" in ranges["max"] and "items:1x1," in ranges["min"]
        assert "last:8," in ranges["opt"] and "allowed:8x30" in ranges["opt"]


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(text_format.ParseError):
        parsed('name: "x" warmup: 3')
