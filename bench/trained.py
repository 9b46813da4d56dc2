"""A catalog that was trained, with the queries of its own users."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.inference.open import open_checkpoint
from eqids.model import Batch, EqIDs, HierarchicalSoftmax
from sharding import placement


def trained_head(
    checkpoint: Path, data_dir: Path | None, num_queries: int
) -> tuple[HierarchicalSoftmax, Float[Array, "query item_width"]]:
    """Returns a trained softmax, and what users spread over its dataset ask it.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        data_dir: the dataset folder, by default the one of the run.
        num_queries: users, some more than once where there are fewer.
    """
    opened = open_checkpoint(checkpoint, data_dir, None, placement("none"))
    dataset, seq_len = opened.dataset, opened.config.recipe.seq_len
    users = np.linspace(0, len(dataset.train_length) - 1, num_queries).astype(int)
    spans = [slice(dataset.offsets[u], dataset.offsets[u + 1]) for u in users]
    slots = [dataset.slots[span] for span in spans]
    times = [None if dataset.times is None else dataset.times[s] for s in spans]
    host = query_batch(slots, times, seq_len, opened.tokens)
    batch, last = Batch.of(host), jnp.asarray(last_positions(host))

    ask = jax.jit(EqIDs.queries_at, static_argnames="dtype")
    queries = ask(opened.model, batch, last, dtype=opened.dtype, prefix=opened.prefix)
    return opened.model.softmax, queries
