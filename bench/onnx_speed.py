"""Times the same model as a graph of ONNX, in onnxruntime."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search_options import RecommendOptions
from eqids.config import EqidsToOnnxConfig
from eqids.export.export_onnx import write_onnx
from eqids.export.stored_model import StoredModel, in_memory, stored_model
from eqids.export.verified_graph import graph_arrays
from eqids.inference.engine.prepared_query import prepare_query
from eqids.inference.engine.values import Query, SlotFilter
from eqids.inference.histories import History
from eqids.inference.open import Opened

ONNX = "onnxruntime"
"""Its name in tables."""
_ROWS = 64
"""Most histories of a call, as of ours."""


def installed() -> bool:
    """Returns whether the packages of eqids[onnx] are."""
    return all(importlib.util.find_spec(name) for name in ("onnx", ONNX))


def recommending_graph(
    opened: Opened, options: RecommendOptions, folder: Path
) -> Callable[[list[History]], None]:
    """Returns a function that answers histories by an exported graph.

    It lays histories out, the shortest first, and runs the graph; ids and titles it
    does not look up.

    Args:
        opened: the model.
        options: say where it came from, k, and the number of cores.
        folder: receives the export.
    """
    config = EqidsToOnnxConfig(
        options.checkpoint or opened.path, folder / "onnx", k=options.k, verify=0,
        data_dir=options.data_dir, allowed=False,
    )  # fmt: skip

    def write(stored: StoredModel) -> Callable[[list[History]], None]:
        write_onnx(stored, config, lambda: opened)
        session = _session(folder / "onnx/model.onnx", options.cores)
        return lambda histories: _answer(session, opened, stored, histories)

    if options.checkpoint is None:
        return write(in_memory(opened))
    with stored_model(config) as stored:
        return write(stored)


def _session(graph: Path, cores: int) -> Any:
    import onnxruntime

    limits = onnxruntime.SessionOptions()
    limits.intra_op_num_threads = cores
    return onnxruntime.InferenceSession(
        str(graph), limits, providers=["CPUExecutionProvider"]
    )


def _answer(
    session: Any, opened: Opened, stored: StoredModel, histories: Sequence[History]
) -> None:
    every, num_slots = SlotFilter(opened.dataset.item_valid), opened.dataset.num_slots
    queries = [
        prepare_query(Query(one, 1), opened, every, num_slots) for one in histories
    ]
    queries = [queries[i] for i in np.argsort([one.length for one in queries])]
    for first in range(0, len(queries), _ROWS):
        arrays = graph_arrays(queries[first : first + _ROWS], opened, stored.tokens)
        names = [one.name for one in session.get_inputs()]
        session.run(["slots", "log_probs"], {name: arrays[name] for name in names})
