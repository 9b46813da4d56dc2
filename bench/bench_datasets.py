"""Histories as batches: packed, one in a row, and padded to the longest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from bench.catalogs import zipf_items
from eqids.cli import warn
from eqids.config import PrepareConfig
from eqids.data import Dataset, open_dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.training_batches import NUM_GAPS, BatchConfig, TrainingBatches
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


@dataclass(frozen=True)
class Window:
    """A piece of one history.

    Attributes:
        items: int32 [seq], slots.
        gap: int32 [seq], buckets of the time before each.
        target: int32 [seq], the slot after each, or -1.
    """

    items: Int[np.ndarray, " seq"]
    gap: Int[np.ndarray, " seq"]
    target: Int[np.ndarray, " seq"]


def random_windows(
    num_slots: int, batch_size: int, seq_len: int, seed: int
) -> list[Window]:
    """Returns full windows of uniformly drawn items."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(batch_size):
        slot = rng.integers(0, num_slots, seq_len + 1).astype(np.int32)
        gap = rng.integers(0, NUM_GAPS, seq_len).astype(np.int32)
        windows.append(Window(slot[:-1].copy(), gap, slot[1:].copy()))
    return windows


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


def one_in_a_row(
    windows: Sequence[Window], batch_size: int, seq_len: int | None = None
) -> list[HostBatch]:
    """Returns batches with one window in a row, of nearly equal numbers of windows.

    Args:
        windows: the windows, in order.
        batch_size: largest number of rows in a batch.
        seq_len: positions in a row; all batches then have the same number of rows, the
            one from `batch_size` on that leaves the fewest rows empty. By default a
            batch is as long as its longest window.
    """
    if seq_len is not None:
        sizes = range(batch_size, 2 * batch_size)
        batch_size = min(sizes, key=lambda rows: -len(windows) % rows)
    num_batches = -(-len(windows) // batch_size)
    most = -(-len(windows) // num_batches)
    batches: list[HostBatch] = []
    for part in np.array_split(np.arange(len(windows)), num_batches):
        longest = max(len(windows[i].items) for i in part)
        shape = (len(part), longest) if seq_len is None else (most, seq_len)
        batch = HostBatch.empty(*shape)
        for row, i in enumerate(part):
            window, at = windows[i], (row, slice(len(windows[i].items)))
            batch.items[at], batch.gap[at] = window.items, window.gap
            batch.target[at], batch.segment[at] = window.target, 1
            batch.position[at] = np.arange(len(window.items))
        batches.append(batch)
    return batches
