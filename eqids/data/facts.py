"""What the recipe of a run follows: a few facts of its dataset."""

import numpy as np

from eqids.config import DataFacts
from eqids.data.batches.tokens import ItemTokens
from eqids.data.dataset import Dataset


def facts_of(dataset: Dataset, tokens: ItemTokens | None = None) -> DataFacts:
    """Returns the facts of a dataset.

    Args:
        dataset: the dataset.
        tokens: the tokens of the texts that the model reads beside items, or none.
    """
    lengths = dataset.train_length.astype(np.int64)
    long = lengths[lengths > 1]
    positions = int((long - 1).sum())
    if tokens is not None:
        # Inputs are all training events but the last of each history.
        place = np.arange(len(dataset.slots)) - np.repeat(
            dataset.offsets[:-1], np.diff(dataset.offsets)
        )
        inputs = place < np.repeat(lengths - 1, np.diff(dataset.offsets))
        positions += int(tokens.length[dataset.slots[inputs]].sum())
        positions += len(tokens.prompt) * len(long)
    median, p90 = np.percentile(long, (50, 90)) if len(long) else (0.0, 0.0)
    return DataFacts(
        num_users=dataset.num_users,
        num_items=dataset.info.num_items,
        num_events=int(lengths.sum()),
        num_positions=positions,
        mean_length=float(long.mean()) if len(long) else 0.0,
        median_length=float(median),
        p90_length=float(p90),
        num_evaluated=int(np.count_nonzero(dataset.valid_at > 0)),
    )
