"""Recipes: what a run uses where its flags say nothing."""

import types
from collections.abc import Mapping
from dataclasses import dataclass

from eqids.config.model import Adapter


@dataclass(frozen=True)
class Recipe:
    """The settings of a run that depend on the size of the Llama and on what trains."""

    num_steps: int
    """Steps of the run."""
    batch_size: int
    """Rows in a batch."""
    seq_len: int
    """Positions in a row."""
    learning_rate: float
    """Largest learning rate."""
    warmup_steps: int
    """Steps in which the learning rate rises to its largest value."""
    weight_decay: float
    """AdamW's decay of matrices."""
    item_width: int
    """Size of an item's vector."""
    adapter: Adapter
    """Kind of the adapters between items and Llama."""
    dropout: float
    """Share of activations dropped in training."""
    eval_every: int
    """Steps between evaluations."""
    text_width: int = 0
    """The text columns of an item's vector, included in `item_width`."""


NANO_RECIPE = Recipe(
    num_steps=900,
    batch_size=64,
    seq_len=50,
    learning_rate=2e-3,
    warmup_steps=50,
    weight_decay=0.01,
    item_width=64,
    adapter="linear",
    dropout=0.2,
    eval_every=100,
)
"""Chosen on ML-100K's validation split (docs/quality.md)."""

PRETRAINED_RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        "heads": Recipe(5_000, 16, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "lora": Recipe(5_000, 8, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "all": Recipe(10_000, 8, 64, 5e-5, 500, 0.01, 384, "mlp", 0.0, 500),
    }
)
"""By strategy: a frozen Llama (`heads`), low-rank changes of it (`lora`), all of it.

LoRA can take a higher rate than full training does (Hu et al. 2021 use 2e-4), so
Llama's changes and the heads share one. It keeps the activations of full training,
hence its small batch.
"""
