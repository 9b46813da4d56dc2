"""A model small enough to compile in a second."""

import jax
import jax.numpy as jnp

from eqids.config import (
    LlamaConfig,
    ModelConfig,
)
from eqids.data import Dataset
from eqids.model import Batch, EqIDs, PrefixCache, recent_items
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


# Compiled: one program for all users of a test, where single operations take longer.
queries = jax.jit(EqIDs.queries)


@jax.jit
def log_probs_at(
    model: EqIDs, batch: Batch, position: int, prefix: PrefixCache | None = None
) -> jax.Array:
    """The log-probabilities of all slots after a position of a batch of one row."""
    at = jnp.asarray([position])
    query = model.queries_at(batch, at, dtype=FLOAT32, prefix=prefix)
    recent = recent_items(batch.items, batch.segment, at)
    query = model.lifted(query, recent)
    log_prob, mixture = model.softmax.log_probs(query), model.mixture(query, recent)
    return (log_prob if mixture is None else mixture.log_probs(log_prob))[0]
