"""Recipes: what a run uses where its flags say nothing."""

import types
from collections.abc import Mapping
from dataclasses import dataclass

from eqids.config.choices import Schedule
from eqids.config.model import Adapter


@dataclass(frozen=True)
class Recipe:
    """The settings of a run that depend on its data, its Llama and on what trains.

    Defaults are those of runs recorded before version 0.3.
    """

    num_steps: int
    """Most steps of the run; patience or a bound in time may end it earlier."""
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
    schedule: Schedule = "cosine"
    """How the learning rate goes on after its warmup."""
    early_stop: int = 0
    """Evaluations without a better NDCG@10 that end the run; 0 for any number."""
    eval_users: int = 0
    """Users in an evaluation during training; 0 for all."""
    text_width: int = 0
    """The text columns of an item's vector, included in `item_width`."""
    first_step: int = 0
    """Steps of the run that this one continues. `num_steps` includes them; warmup and
    schedule begin after them."""

    @property
    def own_steps(self) -> int:
        """Most steps of this run, without those of the run that it continues."""
        return self.num_steps - self.first_step


PRETRAINED_RECIPES: Mapping[str, Recipe] = types.MappingProxyType(
    {
        "heads": Recipe(5_000, 16, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "lora": Recipe(5_000, 8, 64, 1e-4, 100, 0.01, 384, "mlp", 0.0, 250),
        "all": Recipe(10_000, 8, 64, 5e-5, 500, 0.01, 384, "mlp", 0.0, 500),
    }
)
"""By strategy: a frozen Llama (`heads`), low-rank changes of it (`lora`), all of it.
The rule (`recipe_for`) takes from here what does not follow the data.

LoRA can take a higher rate than full training does (Hu et al. 2021 use 2e-4), so
Llama's changes and the heads share one. It keeps the activations of full training,
hence its small batch.
"""
