"""Models in Flax as the system's first implementation saved them, and their answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folders import TINY_HF, random_tensors
from transformers import LlamaConfig, LlamaModel

from eqids.data import Dataset

WIDTH = 8
"""Of an item's vector."""


@dataclass(frozen=True)
class FlaxModel:
    """A made-up model, with what its tree does not hold."""

    leaves: Mapping[str, np.ndarray]
    """By path."""
    ids: list[str | None]
    """The item of each row of the item embeddings; None for a row without one."""
    cluster: np.ndarray
    """The cluster of each row."""
    tensors: Mapping[str, np.ndarray]
    """Of the Llama, by the names of Hugging Face."""

    def tree(self) -> dict[str, Any]:
        """Returns the leaves as nested dictionaries."""
        return nested(self.leaves)

    def write_items(self, path: Path) -> Path:
        """Writes the ids and clusters of the rows."""
        rows = zip(self.ids, self.cluster.tolist(), strict=True)
        lines = [f"{one or ''},{cluster}" for one, cluster in rows]
        path.write_text("\n".join(["item_id,cluster", *lines]) + "\n")
        return path

    def log_probs(self, history: list[str]) -> dict[str, float]:
        """Returns log P of every item after a history, computed by torch and NumPy."""
        items = self.leaves["item_embeddings/embedding"]
        x = items[[self.ids.index(one) for one in history]]
        x = x @ self.leaves["input_adapter/kernel"] + self.leaves["input_adapter/bias"]
        hidden = _llama(self.tensors)(inputs_embeds=torch.tensor(x[None]))
        y = hidden.last_hidden_state[0, -1].detach().numpy()
        y = y @ self.leaves["output_adapter/kernel"]
        y = y + self.leaves["output_adapter/bias"]
        of_cluster = _log_softmax(self.leaves["cluster_embeddings/embedding"] @ y)
        out = dict[str, float]()
        for number, log_prob in enumerate(of_cluster):
            rows = [
                row
                for row, one in enumerate(self.ids)
                if one is not None and self.cluster[row] == number
            ]
            inside = _log_softmax(items[rows] @ y)
            for row, value in zip(rows, inside, strict=True):
                out[str(self.ids[row])] = float(log_prob + value)
        return out


def flax_model(dataset: Dataset, seed: int = 0) -> FlaxModel:
    """Returns a random model of a dataset's items, in an order of its own."""
    rng = np.random.default_rng(seed)
    frame = dataset.items()
    ids = [*map(str, frame["item"]), None, None]
    of_slot = frame["slot"].to_numpy() // dataset.info.cluster_size
    number = rng.permutation(dataset.info.num_clusters)
    cluster = np.append(number[of_slot], [0, 3])
    order = rng.permutation(len(ids))
    tensors = random_tensors(tied=False, seed=seed)
    llama = TINY_HF["hidden_size"]
    shapes = {
        "item_embeddings/embedding": (len(ids), WIDTH),
        "cluster_embeddings/embedding": (dataset.info.num_clusters, WIDTH),
        "input_adapter/kernel": (WIDTH, llama),
        "input_adapter/bias": (llama,),
        "output_adapter/kernel": (llama, WIDTH),
        "output_adapter/bias": (WIDTH,),
    }
    leaves = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    leaves |= dict(_of_flax(key, tensor) for key, tensor in tensors.items())
    return FlaxModel(leaves, [ids[row] for row in order], cluster[order], tensors)


def write_config(path: Path) -> Path:
    """Writes config.json of the models' Llama."""
    path.write_text(json.dumps({**TINY_HF, "tie_word_embeddings": False}))
    return path


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns leaves by path as nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *keys, last = path.split("/")
        node = tree
        for key in keys:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path."""
    out: dict[str, Any] = {}
    for key, inner in tree.items():
        if isinstance(inner, Mapping):
            out |= flattened(inner, f"{prefix}{key}/")
        else:
            out[f"{prefix}{key}"] = inner
    return out


def _of_flax(key: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
    """The name and the values in `FlaxLlamaForCausalLM` of a tensor of torch."""
    name = "llama/" + key.removesuffix(".weight").replace(".", "/")
    if "norm" in key:
        return f"{name}/weight", tensor
    if "embed" in key:
        return f"{name}/embedding", tensor
    return f"{name}/kernel", np.ascontiguousarray(tensor.T)


def _llama(tensors: Mapping[str, np.ndarray]) -> Any:
    model = LlamaModel(LlamaConfig(**TINY_HF)).eval()
    own = {
        key.removeprefix("model."): torch.tensor(tensor)
        for key, tensor in tensors.items()
        if key.startswith("model.")
    }
    model.load_state_dict(own)
    return model


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
