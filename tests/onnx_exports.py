"""Exports of small models as ONNX, and processes that hold onnxruntime alone."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from exports import alone, plain_model
from models import TINY
from served import opened_model
from test_words import random_words

from eqids.config import EqidsToOnnxConfig, ModelConfig
from eqids.data import Dataset
from eqids.export.export_onnx import write_onnx
from eqids.export.stored_model import StoredModel, in_memory
from eqids.inference.open import Opened
from eqids.runs.new_model import initial_model

GraphKind = Literal["ids", "request time", "texts", "prompt", "text columns", "untied"]
KINDS: tuple[GraphKind, ...] = (
    "ids", "request time", "texts", "prompt", "text columns", "untied",
)  # fmt: skip
"""Those between "ids" and "text columns" have counts and all times; "untied" has two
item tables, no adapters and no skip connection."""
PACKAGES = ("numpy", "onnxruntime")
"""What `pip install onnxruntime` brings of what it imports."""


def onnxruntime_alone(folder: Path) -> Path:
    """Fills a folder with links to onnxruntime and NumPy."""
    return alone(folder, PACKAGES)


def graph_model(dataset: Dataset, kind: GraphKind) -> tuple[Opened, StoredModel]:
    """A model of noise, open and as its files would hold it."""
    if kind in ("ids", "text columns", "untied"):
        opened = plain_model(dataset, text_width=3 * (kind == "text columns"))
        if kind == "untied":
            places = dataset.info.num_clusters, dataset.info.cluster_size
            sizes = ModelConfig(
                TINY, *places, TINY.width, adapter="identity", tied_items=False
            )
            model = initial_model(sizes, dataset, None, jax.random.key(1))
            opened = dataclasses.replace(opened, model=model)
        elif kind != "ids":
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
    whole = dataclasses.replace(opened, tokens=tokens, prefix=None)
    return opened, in_memory(whole)


def export_graph(
    output: Path, opened: Opened, stored: StoredModel, **flags: Any
) -> Mapping[str, str]:
    """Exports an open model without comparing answers; returns the digests."""
    given = {"k": 6, "verify": 0, **flags}
    config = EqidsToOnnxConfig(opened.path, output, **given)
    return write_onnx(stored, config, lambda: opened)
