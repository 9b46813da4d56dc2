"""The whole graph: from histories to the most probable items."""

from collections.abc import Mapping
from dataclasses import replace

from eqids.export.exported_programs import ProgramInput, program_inputs
from eqids.export.onnx_graph.graph_builder import GraphBuilder
from eqids.export.onnx_graph.item_nodes import (
    OUTPUT,
    adapted,
    input_rows,
    num_recent,
    recent_items,
    with_skip,
)
from eqids.export.onnx_graph.llama_nodes import last_hidden, sequence_positions
from eqids.export.onnx_graph.model_tensors import ModelTensors
from eqids.export.onnx_graph.softmax_nodes import SoftmaxNodes
from eqids.export.stored_model import StoredModel
from eqids.runs.run_tokens import prefix_length

OUTPUTS: Mapping[str, str] = {"slots": "int32", "log_probs": "float32"}
"""The outputs of every graph, [rows, k], with their dtypes."""


def recommender_graph(stored: StoredModel, k: int, *, allowed: bool) -> GraphBuilder:
    """Returns the graph that recommends; its weights are read when they are written.

    Args:
        stored: the model.
        k: number of items.
        allowed: whether a mask says which slots may be returned.
    """
    g = GraphBuilder()
    tensors = ModelTensors(g, stored)
    c, softmax = tensors.sizes, SoftmaxNodes(g, tensors)
    positions = sequence_positions(g, c.llama, most_positions(stored))
    x = input_rows(g, tensors)
    hidden = last_hidden(g, x, positions, c.llama, tensors.llama)
    query, recent = adapted(g, tensors, hidden, OUTPUT), None
    if num_recent(c):
        recent = recent_items(g, num_recent(c))
        query = with_skip(g, tensors, query, recent) if c.skip else query
    log_probs, score = softmax.log_probs(query)
    if recent is not None and c.num_successors:
        log_probs = softmax.mixed(log_probs, score, recent)
    softmax.best(log_probs, k, allowed=allowed)
    return g


def graph_inputs(stored: StoredModel, *, allowed: bool) -> Mapping[str, ProgramInput]:
    """Returns the inputs of a model's graph by name.

    Args:
        stored: the model.
        allowed: whether the graph has the input with that name.
    """
    request_time = stored.sizes.request_time
    inputs = {**program_inputs(stored.tokens is not None, request_time)}
    mask = inputs.pop("allowed")
    inputs["exclude"] = ProgramInput(
        ("rows", "excluded"), "int32", -1,
        "slots not to return, such as those of the history; -1 is padding",
    )  # fmt: skip
    if allowed:
        meaning = f"{mask.meaning}, of one mask for all rows or of one for each"
        inputs["allowed"] = replace(mask, shape=("masks", "slots"), meaning=meaning)
    return inputs


def most_positions(stored: StoredModel) -> int:
    """Returns the largest length of a history, its prompt included."""
    prompt = prefix_length(stored.tokens, stored.config.strategy)
    return stored.config.recipe.seq_len + prompt
