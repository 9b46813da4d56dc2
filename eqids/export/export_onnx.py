"""Exports a model as a graph of ONNX: weights, items, a manifest and a loader."""

import importlib.metadata
import importlib.util
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convert.outputs import OutputFolder, Progress, output_folder
from eqids.config import EqidsToOnnxConfig, require, to_json
from eqids.export.export_folder import (
    MANIFEST,
    check_output_folder,
    command_words,
    facts_of_histories,
    write_items,
)
from eqids.export.exported_programs import ProgramInput
from eqids.export.onnx_graph.graph_file import (
    IR_VERSION,
    OPSET,
    WEIGHTS_FILE,
    GraphShapes,
    check_graph,
    graph_bytes,
)
from eqids.export.onnx_graph.recommender_graph import (
    OUTPUTS,
    graph_inputs,
    most_positions,
    recommender_graph,
)
from eqids.export.stored_model import StoredModel, stored_model
from eqids.export.triton_config import (
    CONFIG_FILE,
    LABELS_FILE,
    VERSION_FOLDER,
    shape_ranges,
    triton_config,
)
from eqids.export.verified_graph import TOLERANCE, open_in_float32, verified_graph
from eqids.inference.engine.shapes import Shapes
from eqids.inference.open import Opened

FORMAT_VERSION = 1
GRAPH_FILE = "model.onnx"
_COMMAND, _PARTS = "eqids-to-onnx", ("graph", "opset")
"""The subcommand, and fields that only its manifests have."""
_LOADER = Path(__file__).with_name("onnx_loader.py")
"""Not imported here: it needs onnxruntime."""
_MOST_EXCLUDED = 1024
"""Most slots to leave out in the shapes that TensorRT compiles for, if histories are
shorter."""
_MEANINGS = {
    "slots": "the most probable items, best first; -1 for none",
    "log_probs": "the natural logarithms of their probabilities; -inf for none",
}


def eqids_to_onnx(
    config: EqidsToOnnxConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a model as a graph that recommends without EqIDs.

    Args:
        config: what to write, and where.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the model cannot be opened, a package is missing, the output exists
            already, or the graph does not answer as EqIDs does.
    """
    check_output_folder(config, _COMMAND, _PARTS)
    for package in ("onnx", "onnxruntime"):
        require(
            importlib.util.find_spec(package) is not None,
            f"{_COMMAND} needs {package}: pip install 'eqids[onnx]'",
        )
    with stored_model(config) as stored:
        return write_onnx(
            stored, config, lambda: open_in_float32(config, stored), advance
        )


def write_onnx(
    stored: StoredModel,
    config: EqidsToOnnxConfig,
    opened: Callable[[], Opened],
    advance: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Writes a stored model; see `eqids_to_onnx`.

    Args:
        stored: the model.
        config: what to write, and where.
        opened: opens the same model to compute in float32; called to compare answers.
        advance: called for every part of a tensor that was written.
    """
    check_output_folder(config, _COMMAND, _PARTS)
    with output_folder(config.output, advance, replace=config.overwrite) as new:
        _Export(config, stored, new).write(opened)
    return new.digests


@dataclass(frozen=True)
class _Export:
    """One export while it is written."""

    config: EqidsToOnnxConfig
    stored: StoredModel
    new: OutputFolder

    def write(self, opened: Callable[[], Opened]) -> None:
        """Writes all files, the manifest last."""
        config, stored, new = self.config, self.stored, self.new
        inputs = graph_inputs(stored, allowed=config.allowed)
        graph = self._write_graph(inputs)
        verified = None
        if config.verify:
            verified = asdict(
                verified_graph(
                    new.path / graph, opened(), stored.tokens, self._k, config.verify
                )
            )
        labels = write_items(new, stored.dataset, stored.tokens)
        new.write("onnx_loader.py", _LOADER.read_bytes())
        if config.triton:
            text = triton_config(
                inputs, OUTPUTS, self._most, self._lengths, tensorrt=config.tensorrt
            )
            new.write(CONFIG_FILE, text.encode())
            new.write(LABELS_FILE, "".join(f"{one}\n" for one in labels).encode())
        about = {**self._about(graph, inputs), "verified": verified}
        new.write_json(MANIFEST, {**about, "files": dict(sorted(new.digests.items()))})

    def _write_graph(self, inputs: Mapping[str, ProgramInput]) -> str:
        """Writes the graph and its weights; returns the name of the graph's file."""
        new = self.new
        begin = f"{VERSION_FOLDER}/" if self.config.triton else ""
        (new.path / begin).mkdir(parents=True, exist_ok=True)
        graph = recommender_graph(self.stored, self._k, allowed=self.config.allowed)
        new.expect(graph.weights)
        new.write_tensors(begin + WEIGHTS_FILE, graph.weights)
        k, num_slots = self._k, self._most["slots"]
        outputs: GraphShapes = {n: (dtype, ("rows", k)) for n, dtype in OUTPUTS.items()}
        weights = new.path / begin / WEIGHTS_FILE
        data = graph_bytes(graph, _shapes(inputs, num_slots), outputs, weights)
        new.write(begin + GRAPH_FILE, data)
        check_graph(new.path / begin / GRAPH_FILE)
        return begin + GRAPH_FILE

    @property
    def _k(self) -> int:
        return min(self.config.k, self.stored.dataset.num_slots)

    @property
    def _most(self) -> Mapping[str, int]:
        """The largest sizes of the axes, for Triton and TensorRT."""
        rows, length = self.config.rows, most_positions(self.stored)
        slots = self.stored.dataset.num_slots
        return {
            "rows": rows, "length": length, "excluded": max(_MOST_EXCLUDED, length),
            "masks": rows, "slots": slots, "k": self._k,
        }  # fmt: skip

    @property
    def _lengths(self) -> list[int]:
        """Lengths to which callers pad histories, so that batches have few shapes."""
        most = self._most
        return list(Shapes.of(most["length"], most["slots"], 1, 1).lengths)

    def _about(
        self, graph: str, inputs: Mapping[str, ProgramInput]
    ) -> Mapping[str, Any]:
        """Returns the manifest but for its digests."""
        config, stored = self.config, self.stored
        facts = facts_of_histories(stored.config, stored.dataset, stored.tokens)
        return {
            "format_version": FORMAT_VERSION,
            "command": shlex.join(command_words(_COMMAND, config)),
            "graph": graph,
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "versions": dict(_versions()),
            "checkpoint": str(stored.path),
            "step": stored.step,
            "model": to_json(stored.sizes),
            "dtype": "float32",
            **facts,
            "seq_len": most_positions(stored),
            "lengths": self._lengths,
            "k": self._k,
            "inputs": {name: asdict(one) for name, one in inputs.items()},
            "outputs": {
                name: f"{dtype} [rows, k]: {_MEANINGS[name]}"
                for name, dtype in OUTPUTS.items()
            },
            "tensorrt_shapes": shape_ranges(inputs, self._most),
            "tolerance": TOLERANCE,
        }


def _shapes(inputs: Mapping[str, ProgramInput], num_slots: int) -> GraphShapes:
    """Returns the dtypes and axes of inputs; all axes but that of slots are free."""
    return {
        name: (one.dtype, [num_slots if x == "slots" else x for x in one.shape])
        for name, one in inputs.items()
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("onnx", "onnxruntime"):
        yield package, importlib.metadata.version(package)
