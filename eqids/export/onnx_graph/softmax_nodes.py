"""The nodes of the hierarchical softmax over all items, its counts and its filters.

The log-probabilities of all items are computed, where EqIDs searches: runtimes take a
dense product and a TopK of constant k.
"""

import numpy as np

from convert.outputs import Weight
from eqids.config import MARKOV_ORDER
from eqids.export.onnx_graph.graph_builder import GraphBuilder, ints
from eqids.export.onnx_graph.item_nodes import RecentItems
from eqids.export.onnx_graph.llama_nodes import NEVER
from eqids.export.onnx_graph.model_tensors import ModelTensors
from eqids.model.counts import MODEL_POWER

_NONE = -1e29
"""Scores below this are of no item."""


class SoftmaxNodes:
    """Adds the softmax to a graph."""

    def __init__(self, g: GraphBuilder, tensors: ModelTensors):
        self._g, self._tensors = g, tensors
        self._num_slots = tensors.valid.size
        rows = g("Shape", "last", name="rows")
        # One more column, for padding.
        width = ints(self._num_slots + 1)
        shape = g("Concat", rows, width, name="zeros.shape", axis=0)
        self._zeros = g("ConstantOfShape", shape, name="zeros")

    def log_probs(self, query: str) -> tuple[str, str]:
        """Adds log P of all slots, and the logits that counts are weighted by.

        Args:
            query: [rows, item_width].

        Returns:
            Names of two tensors [rows, slots]: the log-probabilities, about `NEVER` at
            places without an item; and log P(cluster) plus the logit.
        """
        g, tensors, valid = self._g, self._tensors, self._tensors.valid
        values = tensors.in_memory("softmax.cluster_bias")
        values = np.where(valid.any(axis=1), values, np.float32(NEVER))
        bias = g.weight("softmax.cluster_bias", Weight.of(values))
        table = tensors.beside("softmax.cluster_table")
        logits = g("Gemm", query, table, bias, name="clusters.logits", transB=1)
        clusters = g("LogSoftmax", logits, name="clusters.log_probs", axis=-1)
        clusters = g("Unsqueeze", clusters, ints(2), name="clusters.log_probs.column")
        logits = self._by_cluster(self._item_logits(query), "items.logits.by_cluster")
        items = g("LogSoftmax", logits, name="items.log_probs_in_cluster", axis=-1)
        joint = g("Add", clusters, items, name="items.log_probs.by_cluster")
        score = g("Add", clusters, logits, name="items.scores.by_cluster")
        return (
            self._flat(joint, "items.log_probs"),
            self._flat(score, "items.scores"),
        )

    def mixed(self, log_probs: str, score: str, recent: RecentItems) -> str:
        """Adds the mixture with counts, as `eqids.model.mixture` defines it.

        Args:
            log_probs: of the softmax, from `log_probs`.
            score: from `log_probs`.
            recent: the recent items.
        """
        g, gate = self._g, self._tensors.scalar("successors.gate")
        shares = self._shares_after(recent)
        counted = g("Greater", shares, np.float32(0), name="counts.counted")
        power = g("Mul", score, np.float32(MODEL_POWER), name="counts.scores")
        power = g("Where", counted, power, np.float32(NEVER), name="counts.some_scores")
        most = g("ReduceMax", power, ints(1), name="counts.most", keepdims=1)
        power = g("Sub", power, most, name="counts.below_most")
        power = g("Exp", power, name="counts.powers")
        power = g("Mul", shares, power, name="counts.weights")
        total = g("ReduceSum", power, ints(1), name="counts.total", keepdims=1)
        some = g("Greater", total, np.float32(0), name="counts.any")
        total = g("Max", total, np.float32(1e-30), name="counts.total_above_0")
        prob = g("Div", power, total, name="counts.probabilities")
        prob = g("Mul", prob, gate, name="counts.gated")
        rest = np.log1p(-gate, dtype=np.float32)
        rest = g("Where", some, rest, np.float32(0), name="mixture.log_rest")
        own = g("Add", log_probs, rest, name="mixture.of_softmax")
        both = g("Add", g("Exp", own, name="mixture.exp"), prob, name="mixture.sum")
        both = g("Log", both, name="mixture.log")
        more = g("Greater", prob, np.float32(0), name="mixture.counted")
        return g("Where", more, both, own, name="mixture")

    def best(self, log_probs: str, k: int, *, allowed: bool) -> None:
        """Adds the outputs `slots` and `log_probs`.

        Args:
            log_probs: log P of all slots.
            k: number of items.
            allowed: whether the graph has the input `allowed`.
        """
        g, valid = self._g, self._tensors.valid.reshape(1, -1)
        may = g.weight("softmax.valid", Weight.of(valid))
        if allowed:
            may = g("And", "allowed", may, name="may.allowed")
        left_out = self._left_out()
        may = g("And", may, g("Not", left_out, name="may.left"), name="may")
        scores = g("Where", may, log_probs, np.float32(NEVER), name="scores")
        names = "best.log_probs", "best.index"
        best, index = g.several("TopK", scores, ints(k), names=names, axis=-1)
        found = g("Greater", best, np.float32(_NONE), name="best.found")
        g("Where", found, best, np.float32(-np.inf), name="log_probs")
        index = g("Cast", index, name="best.slots", to="int32")
        g("Where", found, index, np.int32(-1), name="slots")

    def _item_logits(self, query: str) -> str:
        """Adds the logits of items in their clusters, [rows, slots]."""
        g, tensors = self._g, self._tensors
        values = tensors.in_memory("softmax.bias")
        values = np.where(tensors.valid, values, np.float32(NEVER)).reshape(-1)
        bias = g.weight("softmax.bias", Weight.of(values))
        if tensors.text is None:
            return g(
                "Gemm", query, tensors.item_table, bias, name="items.logits", transB=1
            )
        widths = ints(tensors.sizes.learned_width, tensors.sizes.text_width)
        names = "query.learned", "query.text"
        learned, text = g.several("Split", query, widths, names=names, axis=-1)
        own = g(
            "Gemm", learned, tensors.item_table, bias, name="items.logits.learned",
            transB=1,
        )  # fmt: skip
        return g("Gemm", text, tensors.text, own, name="items.logits", transB=1)

    def _shares_after(self, recent: RecentItems) -> str:
        """Adds the summed shares of the successors of recent items, [rows, slots].

        Equal slots meet only in rows of different recent items, whose shares are added
        one after the other. Padding goes to a column behind the last slot.
        """
        g, successors = self._g, self._tensors.successors
        real, padding = successors.weight > 0, np.int32(self._num_slots)
        table = _by_slot(np.where(real, successors.slot, padding))
        slots = g.weight("successors.slot", Weight.of(table))
        weights = g.weight("successors.weight", Weight.of(_by_slot(successors.weight)))
        sums = self._zeros
        for i in range(MARKOV_ORDER):
            name = f"counts.{i}"
            slot = g("Gather", recent.slots, ints(i), name=f"{name}.column", axis=1)
            slot = g("Squeeze", slot, ints(1), name=f"{name}.slot")
            one = g("GreaterOrEqual", slot, np.int32(0), name=f"{name}.is_item")
            one = g("Cast", one, name=f"{name}.is_item.float", to="float32")
            one = g("Unsqueeze", one, ints(1), name=f"{name}.is_item.column")
            near = np.float32(1 / (i + 1))
            one = g("Mul", one, near, name=f"{name}.weight")
            slot = g("Max", slot, np.int32(0), name=f"{name}.real")
            share = g("Gather", weights, slot, name=f"{name}.shares")
            share = g("Mul", share, one, name=f"{name}.shares.weighted")
            after = g("Gather", slots, slot, name=f"{name}.successors")
            before = g(
                "GatherElements", sums, after, name=f"{name}.sums.before", axis=1
            )
            share = g("Add", before, share, name=f"{name}.sums.after")
            sums = g("ScatterElements", sums, after, share, name=f"{name}.sums", axis=1)
        return self._without_padding(sums, "counts.shares")

    def _left_out(self) -> str:
        """Adds which slots `exclude` names, bool [rows, slots]."""
        g = self._g
        not_negative = g(
            "GreaterOrEqual", "exclude", np.int32(0), name="exclude.not_negative"
        )
        below = g("Less", "exclude", np.int32(self._num_slots), name="exclude.below")
        real = g("And", not_negative, below, name="exclude.real")
        padding = np.int32(self._num_slots)
        at = g("Where", real, "exclude", padding, name="exclude.index")
        ones = g("Cast", real, name="exclude.ones", to="float32")
        marks = g(
            "ScatterElements", self._zeros, at, ones, name="exclude.marks", axis=1
        )
        marks = self._without_padding(marks, "exclude.marks.of_slots")
        return g("Greater", marks, np.float32(0.5), name="exclude.left_out")

    def _without_padding(self, x: str, name: str) -> str:
        return self._g("Slice", x, ints(0), ints(self._num_slots), ints(1), name=name)

    def _by_cluster(self, x: str, name: str) -> str:
        shape = ints(-1, *self._tensors.valid.shape)
        return self._g("Reshape", x, shape, name=name)

    def _flat(self, x: str, name: str) -> str:
        return self._g("Reshape", x, ints(-1, self._num_slots), name=name)


def _by_slot(table: np.ndarray) -> np.ndarray:
    return table.reshape(-1, table.shape[-1])
