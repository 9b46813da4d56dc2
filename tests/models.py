"""A model small enough to compile in a second."""

import jax
import jax.numpy as jnp

from eqids.config import (
    LlamaConfig,
    ModelConfig,
)
from eqids.data import Dataset
from eqids.model import EqIDs
from eqids.runs.new_model import initial_model
from sharding import Placement

FLOAT32 = jnp.float32
NOWHERE = Placement(None, None)
TINY = LlamaConfig(16, 2, 2, 1, 8, 24, 7, tied=True)


def tiny_model(dataset: Dataset, seed: int = 0, **sizes: object) -> EqIDs:
    """A model as runs have it: with the skip connection, unless `sizes` says no."""
    config = ModelConfig(
        TINY, dataset.info.num_clusters, dataset.info.cluster_size, item_width=8,
        **{"skip": True, **sizes},  # type: ignore[arg-type]
    )  # fmt: skip
    return initial_model(config, dataset, None, jax.random.key(seed))
