"""Exports of small models as ONNX, and processes that hold onnxruntime alone."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from exports import alone, plain_model
from served import opened_model
from test_words import random_words

from convert.hf_write import arrays_of, llama_weights
from convert.names import tensors_of
from convert.outputs import Weight
from eqids.checkpoints import leaf_name
from eqids.config import EqidsToOnnxConfig
from eqids.data import Dataset
from eqids.export.export_onnx import write_onnx
from eqids.export.stored_model import StoredModel
from eqids.inference.open import Opened

GraphKind = Literal["ids", "request time", "texts", "prompt", "text columns"]
KINDS: tuple[GraphKind, ...] = (
    "ids", "request time", "texts", "prompt", "text columns",
)  # fmt: skip
"""All but "ids" and "text columns" have counts and all times."""
PACKAGES = ("numpy", "onnxruntime")
"""What `pip install onnxruntime` brings of what it imports."""


def onnxruntime_alone(folder: Path) -> Path:
    """Fills a folder with links to onnxruntime and NumPy."""
    return alone(folder, PACKAGES)


def graph_model(dataset: Dataset, kind: GraphKind) -> tuple[Opened, StoredModel]:
    """A model of noise, open and as its files would hold it."""
    if kind in ("ids", "text columns"):
        opened = plain_model(dataset, text_width=3 * (kind != "ids"))
        if kind != "ids":
            # The columns were zeros when it was scaled.
            model = eqx.tree_at(
                lambda m: m.skip.text_scale, opened.model, jnp.asarray(1.5)
            )
            opened = dataclasses.replace(opened, model=model)
    else:
        known = {"request time": "items", "texts": "text", "prompt": "prompt"}
        opened = opened_model(dataset, known[kind])  # type: ignore[arg-type]
    tokens = opened.tokens
    if kind == "prompt":
        config = dataclasses.replace(opened.config, strategy="heads")
        opened = dataclasses.replace(opened, config=config)
        tokens = random_words(dataset, 0, per_item=2, prompt=5)
    return opened, dataclasses.replace(stored_of(opened), tokens=tokens)


def stored_of(opened: Opened) -> StoredModel:
    """An open model as its files would hold it."""
    llama, beside = opened.model.llama, dict[str, Weight]()
    for route, leaf in jax.tree_util.tree_leaves_with_path(opened.model):
        path = leaf_name(route)
        if not path.startswith("llama/"):
            (tensor,) = tensors_of(path, leaf.shape)
            beside[tensor.name] = Weight.of(np.asarray(leaf))
    stored = np.dtype(np.float32)
    return StoredModel(
        opened.path, opened.step, opened.config, opened.model.config, opened.dataset,
        opened.tokens, llama_weights(llama.config, stored, arrays_of(llama)), beside,
    )  # fmt: skip


def export_graph(
    output: Path, opened: Opened, stored: StoredModel, **flags: Any
) -> Mapping[str, str]:
    """Exports an open model without comparing answers; returns the digests."""
    given = {"k": 6, "verify": 0, **flags}
    config = EqidsToOnnxConfig(opened.path, output, **given)
    return write_onnx(stored, config, lambda: opened)
