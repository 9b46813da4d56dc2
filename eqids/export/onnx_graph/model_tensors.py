"""The arrays of a model as tensors of a graph, by the names of EqIDs' fields."""

import numpy as np
from jaxtyping import Bool, Float

from convert.outputs import Weight
from eqids.config import ModelConfig
from eqids.data.successors import SuccessorTable
from eqids.export.onnx_graph.graph_builder import GraphBuilder, float32, reshaped
from eqids.export.stored_model import StoredModel

_BEGIN = "eqids."
"""How names of arrays begin in safetensors."""


class ModelTensors:
    """The arrays of a stored model, which a graph takes one by one.

    Attributes:
        sizes: the model's.
        llama: the tensors of its Llama by their names of Hugging Face.
        valid: places of items that are not retired.
        item_table: the learned columns of items' vectors, [slots, learned_width].
        input_table: those of the input, if it has its own.
        text: the columns of items' texts, or None.
        embedding: the embedding of text tokens, or None for a model without texts.
    """

    def __init__(self, g: GraphBuilder, stored: StoredModel):
        self._g, self._model = g, stored
        self.llama = stored.llama
        self.sizes: ModelConfig = stored.sizes
        self.valid: Bool[np.ndarray, "cluster place"] = stored.dataset.item_valid
        self.item_table = self._by_slot("softmax.table")
        self.input_table = ""
        if not self.sizes.tied_items:
            self.input_table = self._by_slot("input_table")
        self.text = self._by_slot("softmax.text") if self.sizes.text_width else None
        self.embedding = None
        if stored.tokens is not None:
            self.embedding = self.of_llama("model.embed_tokens.weight")

    def stored(self, name: str) -> Weight:
        """Returns an array of the model, but for Llama's, in float32."""
        return float32(self._model.beside[_BEGIN + name], name)

    def beside(self, name: str) -> str:
        """Adds an array of the model to the graph; returns its name."""
        return self._g.weight(name, self.stored(name))

    def of_llama(self, key: str) -> str:
        """Adds an array of Llama to the graph; returns its name."""
        return self._g.weight(key, float32(self._model.llama[key], key))

    def in_memory(self, name: str) -> Float[np.ndarray, "*axes"]:
        """Returns the values of an array, such as a table of biases."""
        weight = self.stored(name)
        parts = [part.reshape(-1) for part in weight.parts()]
        return np.concatenate(parts).reshape(weight.shape)

    def scalar(self, name: str) -> np.float32:
        """Returns an array of one number."""
        return np.float32(self.in_memory(name).item())

    @property
    def successors(self) -> SuccessorTable:
        """The counts of the dataset."""
        return self._model.dataset.successors.table(self.valid)

    def _by_slot(self, name: str) -> str:
        weight = self.stored(name)
        slots = weight.shape[0] * weight.shape[1]
        return self._g.weight(name, reshaped(weight, slots, weight.shape[2]))
