"""Datasets that the bench opens or makes, and batches of their histories."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.catalogs import zipf_items
from bench.windows import Window
from eqids.cli import warn
from eqids.config import PrepareConfig
from eqids.data import Dataset, open_dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.data.preparation import prepare
from eqids.runs.recipe import DEFAULT_DATA

_LOOKED_AT = 64
"""Number of batches that `packed_batches` chooses from."""


def opened(data_dir: Path | None) -> Dataset:
    """Opens a dataset; by default ML-100K, downloaded if it is missing.

    Raises:
        UserError: there is no such dataset, or no connection.
    """
    if data_dir is None and not DEFAULT_DATA.exists():
        prepare(PrepareConfig(data_dir=DEFAULT_DATA), warn)
    return open_dataset(data_dir or DEFAULT_DATA)


def generated(folder: Path, num_items: int, seed: int) -> Dataset:
    """Makes a dataset of histories of 30 items by Zipf's law, a user for 8 items.

    Args:
        folder: where it goes.
        num_items: items of the catalog; each has an event.
        seed: of the events.
    """
    rng, num_users = np.random.default_rng(seed), max(4, num_items // 8)
    users = np.repeat(np.arange(num_users), 30)
    items = np.append(zipf_items(num_items, len(users), seed), np.arange(num_items))
    users = np.append(users, rng.integers(0, num_users, num_items))
    times = 1_600_000_000 + rng.integers(0, 10**7, len(items))
    columns = {"user_id": users, "item_id": items, "timestamp": times}
    events = folder / "events.parquet"
    pq.write_table(pa.table(columns), events)
    config = PrepareConfig(source=f"parquet:{events}", data_dir=folder / "data")
    prepare(config, lambda text: None)
    return open_dataset(folder / "data")


def packed_batches(
    dataset: Dataset, config: BatchConfig, num_batches: int
) -> tuple[list[HostBatch], float]:
    """Returns consecutive batches of a run, and the mean number of windows in a row.

    Packing gains more where windows are short. So the batches are chosen, among the
    first of a run's first epoch, for a number of windows near the mean.

    Args:
        dataset: the dataset.
        config: the batches' config.
        num_batches: how many batches to return.

    Returns:
        The batches, and the mean over all batches that they were chosen from.
    """
    run = TrainingBatches(dataset, config)
    most = max(num_batches, min(_LOOKED_AT, int(run.batches_per_epoch)))
    batches = [run.batch(k) for k in range(most)]
    windows = [int(batch.segment.max(axis=1).sum()) for batch in batches]
    mean = sum(windows) / most

    def off(first: int) -> float:
        return abs(sum(windows[first : first + num_batches]) - num_batches * mean)

    first = min(range(most - num_batches + 1), key=off)
    return batches[first : first + num_batches], mean / config.batch_size


def windows_of(batches: Sequence[HostBatch], seed: int) -> list[Window]:
    """Returns the windows that are packed in batches, shuffled.

    Packing pairs long windows with short ones; a loader that does not pack would not.
    """
    windows = [
        Window(batch.items[row, at], batch.gap[row, at], batch.target[row, at])
        for batch in batches
        for row, segment in enumerate(batch.segment)
        for number in range(1, int(segment.max()) + 1)
        for at in (segment == number,)
    ]
    order = np.random.default_rng(seed).permutation(len(windows))
    return [windows[i] for i in order]
