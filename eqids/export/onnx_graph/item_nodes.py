"""The nodes of items outside of the softmax: input rows, adapters, recent items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convert.outputs import Weight
from eqids.config import MARKOV_ORDER, ModelConfig
from eqids.export.onnx_graph.graph_builder import GraphBuilder, ints, transposed
from eqids.export.onnx_graph.model_tensors import ModelTensors
from eqids.model.item_vectors import TEXT_STD

INPUT, OUTPUT = "input_adapter", "output_adapter"


def input_rows(g: GraphBuilder, tensors: ModelTensors) -> str:
    """Adds the input of Llama, as `EqIDs.embed` computes it: [rows, length, width]."""
    c = tensors.sizes
    slot = g("Max", "items", np.int32(0), name="items.real")
    parts = item_parts(g, tensors, slot, "items")
    vectors = parts[0]
    if len(parts) > 1:
        vectors = g("Concat", *parts, name="items.vectors", axis=-1)
    x = adapted(g, tensors, vectors, INPUT)
    gaps = g("Gather", tensors.beside("gap_table"), "gap", name="gap.rows")
    x = g("Add", x, gaps, name="items.with_gaps")
    if tensors.embedding is not None:
        real = g("GreaterOrEqual", "items", np.int32(0), name="items.are_items")
        real = g("Unsqueeze", real, ints(2), name="items.are_items.column")
        words = g("Gather", tensors.embedding, "tokens", name="tokens.rows")
        x = g("Where", real, x, words, name="items_or_tokens")
    if c.request_time:
        table = tensors.in_memory("request_table")
        # An unknown gap adds nothing.
        table[0] = 0
        weight = g.weight("request_table", Weight.of(table))
        asked = g("Gather", weight, "request_gap", name="request_gap.rows")
        x = g("Add", x, asked, name="input_rows")
    return x


def item_parts(
    g: GraphBuilder, tensors: ModelTensors, slot: str, name: str
) -> Sequence[str]:
    """Adds the vectors of items: learned columns, then those of texts, if any."""
    table = tensors.item_table if tensors.sizes.tied_items else tensors.input_table
    parts = [g("Gather", table, slot, name=f"{name}.learned")]
    if tensors.text is not None:
        parts.append(g("Gather", tensors.text, slot, name=f"{name}.text"))
    return parts


def adapted(g: GraphBuilder, tensors: ModelTensors, x: str, adapter: str) -> str:
    """Adds an adapter (`eqids.model.adapter`) of the last axis."""
    kind = tensors.sizes.adapter
    if kind == "identity":
        return x
    if kind == "linear":
        return _linear(g, tensors, x, adapter, "w", "b")
    y = _linear(g, tensors, x, adapter, "w_in", "b_in")
    return _linear(g, tensors, _gelu(g, y, adapter), adapter, "w_out", "b_out")


def _linear(
    g: GraphBuilder, tensors: ModelTensors, x: str, adapter: str, w: str, b: str
) -> str:
    name = f"{adapter}.{w}"
    matrix = g.weight(f"{name}.weight", transposed(tensors.stored(name)))
    y = g("MatMul", x, matrix, name=name)
    return g("Add", y, tensors.beside(f"{adapter}.{b}"), name=f"{adapter}.{b}.added")


def _gelu(g: GraphBuilder, x: str, name: str) -> str:
    """GELU by tanh (Hendrycks & Gimpel 2016), jax's default."""
    cube = g("Pow", x, np.float32(3), name=f"{name}.cube")
    cube = g("Mul", cube, np.float32(0.044715), name=f"{name}.cube.scaled")
    inner = g("Add", x, cube, name=f"{name}.inner")
    scale = np.float32(np.sqrt(2 / np.pi))
    inner = g("Mul", inner, scale, name=f"{name}.inner.scaled")
    tanh = g("Tanh", inner, name=f"{name}.tanh")
    share = g("Add", tanh, np.float32(1), name=f"{name}.share")
    half = g("Mul", x, np.float32(0.5), name=f"{name}.half")
    return g("Mul", half, share, name=f"{name}.gelu")


@dataclass(frozen=True)
class RecentItems:
    """The last items of each row.

    Attributes:
        slots: int32 [rows, recent], newest first; -1 for none.
        newest: the first of them, int32 [rows].
    """

    slots: str
    newest: str


def recent_items(g: GraphBuilder, num: int) -> RecentItems:
    """Adds the last items up to `last`, as `eqids.model.counts.recent_items` does."""
    real = g("GreaterOrEqual", "items", np.int32(0), name="recent.are_items")
    inside = g("LessOrEqual", "positions", "last.column", name="recent.inside")
    both = g("And", real, inside, name="recent.real")
    number = g("Add", "positions", np.int32(1), name="recent.numbers")
    zero = np.int32(0)
    marks = g("Where", both, number, zero, name="recent.marks")
    # TopK takes at least `num` columns. Float32 holds all positions.
    marks = g("Pad", marks, ints(0, 0, 0, num), zero, name="recent.marks.padded")
    marks = g("Cast", marks, name="recent.marks.float", to="float32")
    names = "recent.newest_numbers", "recent.columns"
    newest, _ = g.several("TopK", marks, ints(num), names=names, axis=-1)
    at = g("Cast", newest, name="recent.index", to="int64")
    # Number 0, of no item, is a column of -1 in front.
    pads = ints(0, 1, 0, 0)
    slots = g("Pad", "items", pads, np.int32(-1), name="recent.items.padded")
    slots = g("GatherElements", slots, at, name="recent", axis=1)
    first = g("Slice", slots, ints(0), ints(1), ints(1), name="recent.newest.column")
    return RecentItems(slots, g("Squeeze", first, ints(1), name="recent.newest"))


def with_skip(
    g: GraphBuilder, tensors: ModelTensors, query: str, recent: RecentItems
) -> str:
    """Adds the vector of the newest item to queries: `Skip` with its lift.

    Args:
        g: the graph.
        tensors: the model's.
        query: [rows, item_width].
        recent: the recent items.
    """
    factors = [float(tensors.scalar("skip.scale"))]
    if tensors.text is not None:
        width = tensors.sizes.text_width
        lift = tensors.scalar("skip.text_lift") / (TEXT_STD * width**0.5)
        factors.append(float(tensors.scalar("skip.text_scale") + lift))
    slot = g("Max", recent.newest, np.int32(0), name="skip.slot")
    parts = []
    for part, factor in zip(item_parts(g, tensors, slot, "skip"), factors, strict=True):
        square = g("Mul", part, part, name=f"{part}.square")
        total = g("ReduceSum", square, ints(-1), name=f"{part}.total", keepdims=1)
        above = g("Add", total, np.float32(1e-12), name=f"{part}.eps")
        length = g("Sqrt", above, name=f"{part}.length")
        unit = g("Div", part, length, name=f"{part}.unit")
        parts.append(g("Mul", unit, np.float32(factor), name=f"{part}.scaled"))
    vector = parts[0]
    if len(parts) > 1:
        vector = g("Concat", *parts, name="skip.vector", axis=-1)
    real = g("GreaterOrEqual", recent.newest, np.int32(0), name="skip.are_items")
    real = g("Unsqueeze", real, ints(1), name="skip.are_items.column")
    added = g("Where", real, vector, np.float32(0), name="skip.added")
    return g("Add", query, added, name="query")


def num_recent(sizes: ModelConfig) -> int:
    """Returns how many recent items a model reads outside of Llama."""
    return MARKOV_ORDER if sizes.num_successors else int(sizes.skip)
