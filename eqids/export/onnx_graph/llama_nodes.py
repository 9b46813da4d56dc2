"""The nodes of a Llama, layer by layer, as `eqids.model.llama` computes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convert.outputs import Weight
from eqids.config import LlamaConfig
from eqids.export.onnx_graph.graph_builder import (
    GraphBuilder,
    float32,
    ints,
    transposed,
)
from eqids.model.rope import rope_frequencies

NEVER = -1e30
"""The score of what is masked; finite, so that no difference of two is NaN."""


@dataclass(frozen=True)
class SequencePositions:
    """What attention knows of positions, as names of tensors.

    Attributes:
        cos: cosines of the rotary angles of all positions, [length, head / 2].
        sin: their sines.
        mask: 0 where a query (second to last axis) sees a key (last), else `NEVER`.
        last: the position of each row that predicts, int64 [rows, 1].
        last_cos: `cos` of it, [rows, 1, 1, 1, head / 2].
        last_sin: its sines.
        last_mask: which keys it sees, [rows, 1, 1, 1, length].
    """

    cos: str
    sin: str
    mask: str
    last: str
    last_cos: str
    last_sin: str
    last_mask: str


def sequence_positions(
    g: GraphBuilder, config: LlamaConfig, most: int
) -> SequencePositions:
    """Adds the nodes that depend on positions alone.

    Args:
        g: the graph.
        config: the Llama's.
        most: the largest length.
    """
    position = np.arange(most, dtype=np.int32)
    angle = position[:, None].astype(np.float32) * rope_frequencies(config)
    length = g("Shape", "items", name="length", start=1, end=2)
    tables = {"cos": np.cos(angle), "sin": np.sin(angle), "positions": position}
    cos, sin, own = (
        g("Slice", table, ints(0), length, ints(0), name=name)
        for name, table in tables.items()
    )
    query = g("Unsqueeze", own, ints(1), name="positions.of_queries")
    sees = g("LessOrEqual", own, query, name="mask.causal")
    never, zero = np.float32(NEVER), np.float32(0)
    mask = g("Where", sees, zero, never, name="mask")
    at = g("Unsqueeze", "last", ints(1), name="last.column")
    sees = g("LessOrEqual", own, at, name="mask.of_last")
    wide = g("Where", sees, zero, never, name="mask.of_last.added")
    shape = ints(-1, 1, 1, 1, config.head // 2)
    angles = {}
    for name, table in (("cos", cos), ("sin", sin)):
        rows = g("Gather", table, "last", name=f"last.{name}.rows")
        angles[name] = g("Reshape", rows, shape, name=f"last.{name}")
    return SequencePositions(
        cos=cos,
        sin=sin,
        mask=mask,
        last=g("Cast", at, name="last.index", to="int64"),
        last_cos=angles["cos"],
        last_sin=angles["sin"],
        last_mask=g("Unsqueeze", wide, ints(1, 2, 3), name="last.mask"),
    )


def last_hidden(
    g: GraphBuilder,
    x: str,
    positions: SequencePositions,
    config: LlamaConfig,
    tensors: Mapping[str, Weight],
) -> str:
    """Adds a Llama; returns its normalised output at each row's last position.

    The last layer computes queries of that position only, and all that follows them.

    Args:
        g: the graph.
        x: its input, [rows, length, width].
        positions: from `sequence_positions`.
        config: the Llama's.
        tensors: its tensors by their names of Hugging Face.

    Returns:
        The name of a tensor [rows, width].
    """
    for layer in range(config.num_layers):
        block = _Block(g, layer, config, tensors)
        x = block(x, positions, only_last=layer == config.num_layers - 1)
    x = g("Squeeze", x, ints(1), name="llama.last")
    norm = g.weight("llama.norm", float32(tensors["model.norm.weight"], "model.norm"))
    return rms_norm(g, x, norm, config.norm_eps, "llama.hidden")


def rms_norm(g: GraphBuilder, x: str, scale: str, eps: float, name: str) -> str:
    """Adds RMSNorm, in the five nodes that runtimes fuse."""
    square = g("Pow", x, np.float32(2), name=f"{name}.square")
    mean = g("ReduceMean", square, ints(-1), name=f"{name}.mean", keepdims=1)
    above = g("Add", mean, np.float32(eps), name=f"{name}.eps")
    root = g("Sqrt", above, name=f"{name}.root")
    unit = g("Div", x, root, name=f"{name}.unit")
    return g("Mul", unit, scale, name=name)


@dataclass(frozen=True)
class _Block:
    """One layer."""

    g: GraphBuilder
    layer: int
    config: LlamaConfig
    tensors: Mapping[str, Weight]

    def __call__(self, x: str, positions: SequencePositions, only_last: bool) -> str:
        g, eps = self.g, self.config.norm_eps
        y = rms_norm(
            g, x, self._vector("input_layernorm"), eps, self._name("attention_norm")
        )
        queries = y
        if only_last:
            queries = self._at_last(y, positions, "attention_norm.last")
            x = self._at_last(x, positions, "last")
        y = self._attention(queries, y, positions, only_last)
        x = g("Add", x, y, name=self._name("after_attention"))
        y = rms_norm(
            g, x, self._vector("post_attention_layernorm"), eps, self._name("ffn_norm")
        )
        return g("Add", x, self._feed_forward(y), name=self._name("output"))

    def _attention(
        self, queries: str, x: str, positions: SequencePositions, only_last: bool
    ) -> str:
        """Adds grouped-query attention of positions `queries` to positions `x`."""
        g, c, p = self.g, self.config, positions
        group = c.num_heads // c.num_kv_heads
        scale = np.float32(1 / math.sqrt(c.head))
        q = self._heads("q", queries, group)
        k, v = self._heads("k", x, 1), self._heads("v", x, 1)
        rope = (p.last_cos, p.last_sin) if only_last else (p.cos, p.sin)
        q = g("Mul", self._rotated("q", q, *rope), scale, name=self._name("q.scaled"))
        k = self._rotated("k", k, p.cos, p.sin)
        k = g("Transpose", k, name=self._name("k.columns"), perm=[0, 1, 2, 4, 3])
        score = g("MatMul", q, k, name=self._name("scores"))
        mask = p.last_mask if only_last else p.mask
        seen = g("Add", score, mask, name=self._name("scores.masked"))
        weight = g("Softmax", seen, name=self._name("shares"), axis=-1)
        y = g("MatMul", weight, v, name=self._name("heads"))
        y = g("Transpose", y, name=self._name("heads.last"), perm=[0, 3, 1, 2, 4])
        shape = ints(0, 0, c.num_heads * c.head)
        y = g("Reshape", y, shape, name=self._name("heads.joined"))
        return g("MatMul", y, self._matrix("self_attn.o"), name=self._name("attention"))

    def _at_last(self, x: str, positions: SequencePositions, name: str) -> str:
        """Adds the last position of each row, [rows, 1, width]."""
        g, name = self.g, self._name(name)
        row = g("GatherND", x, positions.last, name=f"{name}.row", batch_dims=1)
        return g("Unsqueeze", row, ints(1), name=name)

    def _heads(self, kind: str, x: str, group: int) -> str:
        """Adds queries, keys or values, [rows, kv_heads, group, positions, head]."""
        g, c = self.g, self.config
        y = g("MatMul", x, self._matrix(f"self_attn.{kind}"), name=self._name(kind))
        shape = ints(0, 0, c.num_kv_heads, group, c.head)
        y = g("Reshape", y, shape, name=self._name(f"{kind}.split"))
        name = self._name(f"{kind}.heads")
        return g("Transpose", y, name=name, perm=[0, 2, 3, 1, 4])

    def _rotated(self, kind: str, x: str, cos: str, sin: str) -> str:
        """Adds rotary embeddings of the pairs (i, i + head / 2)."""
        g, half, name = self.g, self.config.head // 2, self._name(f"{kind}.rope")
        names = f"{name}.first", f"{name}.second"
        first, second = g.several("Split", x, ints(half, half), names=names, axis=-1)
        a = g("Mul", first, cos, name=f"{name}.first.cos")
        b = g("Mul", second, sin, name=f"{name}.second.sin")
        c = g("Mul", second, cos, name=f"{name}.second.cos")
        d = g("Mul", first, sin, name=f"{name}.first.sin")
        parts = g("Sub", a, b, name=f"{name}.a"), g("Add", c, d, name=f"{name}.b")
        return g("Concat", *parts, name=name, axis=-1)

    def _feed_forward(self, x: str) -> str:
        g = self.g
        gate = g("MatMul", x, self._matrix("mlp.gate"), name=self._name("gate"))
        up = g("MatMul", x, self._matrix("mlp.up"), name=self._name("up"))
        sigmoid = g("Sigmoid", gate, name=self._name("gate.sigmoid"))
        silu = g("Mul", gate, sigmoid, name=self._name("gate.silu"))
        y = g("Mul", silu, up, name=self._name("ffn"))
        return g("MatMul", y, self._matrix("mlp.down"), name=self._name("down"))

    def _name(self, name: str) -> str:
        return f"llama.{self.layer}.{name}"

    def _vector(self, name: str) -> str:
        weight = self._float32(f"{name}.weight")
        return self.g.weight(self._name(f"{name}.weight"), weight)

    def _matrix(self, name: str) -> str:
        """The transpose, because Hugging Face's matrices have their outputs first."""
        weight = transposed(self._float32(f"{name}_proj.weight"))
        return self.g.weight(self._name(f"{name}.weight"), weight)

    def _float32(self, name: str) -> Weight:
        key = f"model.layers.{self.layer}.{name}"
        return float32(self.tensors[key], key)
