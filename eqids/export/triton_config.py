"""The configuration of an exported graph in a model repository of Triton.

The fields are those of Triton's model_config.proto, in the text format of protobuf.
"""

from collections.abc import Iterator, Mapping, Sequence

from eqids.export.exported_programs import ProgramInput

MODEL_NAME = "eqids"
"""The model's name, and its folder's."""
VERSION_FOLDER = f"{MODEL_NAME}/1"
"""Holds the graph and its weights."""
LABELS_FILE, CONFIG_FILE = f"{MODEL_NAME}/labels.txt", f"{MODEL_NAME}/config.pbtxt"
QUEUE_DELAY = 1000
"""Microseconds that a request waits for others of its shape."""
_TYPES = {"int32": "TYPE_INT32", "float32": "TYPE_FP32", "bool": "TYPE_BOOL"}
Sizes = Mapping[str, int]
"""Sizes of axes by their words."""


def triton_config(
    inputs: Mapping[str, ProgramInput],
    outputs: Mapping[str, str],
    most: Sizes,
    lengths: Sequence[int],
    *,
    tensorrt: bool,
) -> str:
    """Returns the content of config.pbtxt.

    Args:
        inputs: of the graph.
        outputs: of the graph, with their dtypes.
        most: the largest size of each axis, with `k`.
        lengths: of histories, ascending; the first and the last are computed before
            the model is ready.
        tensorrt: whether TensorRT runs the graph.
    """
    lines = [
        f'name: "{MODEL_NAME}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {most['rows']}",
        "# Every tensor has one more axis in front, that of the batch. Line n of",
        f"# {LABELS_FILE.rpartition('/')[2]}, counted from 0, is the item of slot n.",
    ]
    for name, one in inputs.items():
        lines.append(_tensor("input", name, one.dtype, _dims(one.shape, most)))
    for name, dtype in outputs.items():
        lines.append(_tensor("output", name, dtype, [most["k"]]))
    lines += ["dynamic_batching {", f"  max_queue_delay_microseconds: {QUEUE_DELAY}"]
    lines.append("}")
    for rows in sorted({1, most["rows"]}):
        for length in sorted({lengths[0], lengths[-1]}):
            sizes = {**most, "length": length, "excluded": length}
            lines += _warmup(inputs, sizes, rows)
    if tensorrt:
        lines += _accelerator(inputs, most)
    return "\n".join(lines) + "\n"


def shape_ranges(inputs: Mapping[str, ProgramInput], most: Sizes) -> Mapping[str, str]:
    """Returns the smallest, usual and largest shapes, as TensorRT's tools take them.

    Args:
        inputs: of the graph.
        most: the largest size of each axis.
    """
    fixed = {"slots": most["slots"]}
    least = {**dict.fromkeys(most, 1), **fixed}
    usual = {name: max(1, size // 4) for name, size in most.items()} | fixed
    return {
        "min": ",".join(_shapes(inputs, least)),
        "opt": ",".join(_shapes(inputs, usual)),
        "max": ",".join(_shapes(inputs, most)),
    }


def _shapes(inputs: Mapping[str, ProgramInput], sizes: Sizes) -> Iterator[str]:
    for name, one in inputs.items():
        yield f"{name}:" + "x".join(str(sizes[axis]) for axis in one.shape)


def _dims(shape: Sequence[str], most: Sizes) -> list[int]:
    """Returns the sizes of all axes but the first; -1 for a free one."""
    return [most[axis] if axis == "slots" else -1 for axis in shape[1:]]


def _tensor(kind: str, name: str, dtype: str, dims: list[int]) -> str:
    """Returns an input or an output. One without dims takes one number a request."""
    reshape = "" if dims else " reshape: { shape: [ ] }"
    return (
        f'{kind} {{ name: "{name}" data_type: {_TYPES[dtype]} dims: {dims or [1]}'
        f"{reshape} }}"
    )


def _warmup(
    inputs: Mapping[str, ProgramInput], sizes: Sizes, rows: int
) -> Iterator[str]:
    """Yields a request of zeros, which is computed before the model is ready."""
    yield "model_warmup {"
    yield f'  name: "{rows} x {sizes["length"]}"'
    yield f"  batch_size: {rows}"
    for name, one in inputs.items():
        dims = [sizes[axis] for axis in one.shape[1:]] or [1]
        value = f"data_type: {_TYPES[one.dtype]} dims: {dims} zero_data: true"
        yield f'  inputs {{ key: "{name}" value: {{ {value} }} }}'
    yield "}"


def _accelerator(inputs: Mapping[str, ProgramInput], most: Sizes) -> Iterator[str]:
    yield "optimization { execution_accelerators { gpu_execution_accelerator {"
    yield '  name: "tensorrt"'
    yield '  parameters { key: "precision_mode" value: "FP32" }'
    for name, shapes in shape_ranges(inputs, most).items():
        key = f"trt_profile_{name}_shapes"
        yield f'  parameters {{ key: "{key}" value: "{shapes}" }}'
    yield "} } }"
