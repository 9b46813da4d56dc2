"""Pieces of histories as batches: full and random, and one in a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from eqids.data.batches.event_gaps import NUM_GAPS
from eqids.data.batches.host_batch import HostBatch


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
