"""The same histories as batches: packed, one in a row, and padded to the longest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from eqids.cli import warn
from eqids.config import PrepareConfig
from eqids.data import Dataset, open_dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.training_batches import NUM_GAPS, BatchConfig, TrainingBatches
from eqids.data.preparation import prepare
from eqids.runs.recipe import DEFAULT_DATA

_LOOKED_AT = 64
"""Batches of a run that some are chosen from, see `packed_batches`."""


def opened(data_dir: Path | None) -> Dataset:
    """Opens a dataset; without a folder ML-100K, which is fetched if it is not there.

    Raises:
        UserError: no such dataset, or no connection.
    """
    if data_dir is None and not DEFAULT_DATA.exists():
        prepare(PrepareConfig(data_dir=DEFAULT_DATA), warn)
    return open_dataset(data_dir or DEFAULT_DATA)


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
    """Returns full windows of uniform items."""
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
    """Returns batches of a run that follow one another, and the windows in a usual row.

    Few batches may have many short windows or few long ones, and packing is worth more
    or less there: returned are those of the first epoch, or of its first batches,
    whose number of windows in a row is nearest to the mean.

    Args:
        dataset: whose histories.
        config: of the batches.
        num_batches: how many.

    Returns:
        The batches, and the mean of all that they were chosen from.
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
    """Returns the windows that are packed in batches, in an order of its own.

    Rows pair long windows with short ones; a loader that does not pack knows nothing
    of that.
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
    """Returns batches with one window in a row, as many in each, give or take one.

    Args:
        windows: in order.
        batch_size: rows of a batch at most.
        seq_len: positions in a row, and all batches have as many rows, the number from
            `batch_size` on that leaves the fewest of them empty; by default a batch is
            as long as its longest window.
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
