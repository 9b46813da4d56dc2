"""Batches by number: batch k is a pure function of (dataset, seed, k)."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from eqids.config import require
from eqids.data.dataset import Dataset
from eqids.data.packing import EpochPlan, PackingPlan

Arrays = Mapping[str, np.ndarray]
"""The fields of the model's `Batch`: int32 NumPy arrays `[batch, seq]`."""

NUM_GAPS = 36
"""Buckets of the time between two events: unknown, none, and 34 powers of two."""


def gap_buckets(times: np.ndarray | None, length: int) -> np.ndarray:
    """Returns the bucket of the time between each event and the one before it.

    Args:
        times: int64 [event] seconds, not descending; or none.
        length: number of events.

    Returns:
        int32 [event]: 0 for the first and where times are unknown, 1 for no time at
        all, then 2 + floor(log2(seconds)).
    """
    gaps = np.zeros(length, np.int32)
    if times is not None:
        seconds = np.diff(times)
        _, exponent = np.frexp(seconds.astype(np.float64))
        gaps[1:] = np.minimum(1 + exponent, NUM_GAPS - 1)
    return gaps


@dataclass(frozen=True)
class BatchConfig:
    """How histories become batches."""

    seq_len: int = 200
    """Positions in a row; longer histories are cut."""
    batch_size: int = 64
    """Rows in a batch."""
    seed: int = 0
    """Seeds cuts, order and the draws below."""
    gap_dropout: float = 0.1
    """Share of windows whose gaps are hidden, so that histories without times work."""
    shuffle_ties: bool = True
    """Draw a new order of the events that share a time, each epoch."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")


class TrainingBatches:
    """The endless, seekable stream of training batches."""

    def __init__(self, dataset: Dataset, config: BatchConfig):
        """Plans the epochs.

        Raises:
            UserError: no user has two training events.
        """
        self._dataset = dataset
        self.config = config
        self.plan = PackingPlan(dataset.train_length, config.seq_len, config.seed)
        require(
            self.plan.num_rows > 0,
            f"{dataset.path}: no user has two training events, so there is nothing to "
            "train on",
        )
        self._valid = dataset.item_valid.reshape(-1)
        self._epoch = functools.lru_cache(maxsize=2)(self.plan.epoch)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in an epoch; a batch may straddle two."""
        return self.plan.num_rows / self.config.batch_size

    def batch(self, k: int, rows: slice = slice(None)) -> Arrays:
        """Returns batch k, or only these rows of it."""
        size = self.config.batch_size
        own = range(size)[rows]
        return _stack([self._row(k * size + i) for i in own])

    def iterate(
        self, start: int, stop: int, rows: slice = slice(None)
    ) -> Iterator[Arrays]:
        """Yields batches start to stop - 1, made ahead of time on another thread.

        Args:
            start: the first batch's number.
            stop: one past the last.
            rows: what is wanted of each; the others are not made.
        """
        make = functools.partial(self.batch, rows=rows)
        batches = grain.MapDataset.range(start, stop).map(make)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return iter(batches.to_iter_dataset(options))

    def _row(self, index: int) -> Arrays:
        epoch, row = divmod(index, self.plan.num_rows)
        plan = self._epoch(epoch)
        rng = np.random.default_rng((self.config.seed, epoch, row, 1))
        out = _empty_row(self.config.seq_len)
        windows = range(plan.row_start[row], plan.row_start[row + 1])
        for number, window in enumerate(windows, start=1):
            self._fill(out, plan, window, number, rng)
        return out

    def _fill(
        self,
        out: Arrays,
        plan: EpochPlan,
        window: int,
        segment: int,
        rng: np.random.Generator,
    ) -> None:
        """Writes one window into its place in a row."""
        user, length = plan.user[window], int(plan.length[window])
        first = self._dataset.offsets[user] + plan.start[window]
        events = slice(first, first + length + 1)
        slots, times = self._dataset.slots[events], None
        if self._dataset.times is not None:
            times = self._dataset.times[events]
            if self.config.shuffle_ties:
                slots = slots[np.lexsort((rng.random(length + 1), times))]
            if rng.random() < self.config.gap_dropout:
                times = None
        at = slice(plan.offset[window], plan.offset[window] + length)
        out["items"][at] = slots[:-1]
        # Retired items are read, and never asked for.
        out["target"][at] = np.where(self._valid[slots[1:]], slots[1:], -1)
        out["gap"][at] = gap_buckets(times, length + 1)[:-1]
        out["segment"][at] = segment
        out["position"][at] = np.arange(length)


def query_batch(
    histories: Sequence[np.ndarray],
    times: Sequence[np.ndarray | None],
    seq_len: int,
) -> Arrays:
    """Returns a batch of one history a row, its last `seq_len` events, no targets.

    Args:
        histories: slots of each history, oldest first, at least one event.
        times: the times of each, or none.
        seq_len: positions in a row.
    """
    rows = []
    for slots, seconds in zip(histories, times, strict=True):
        out, kept = _empty_row(seq_len), slots[-seq_len:]
        at = slice(0, len(kept))
        out["items"][at] = kept
        kept_times = None if seconds is None else seconds[-seq_len:]
        out["gap"][at] = gap_buckets(kept_times, len(kept))
        out["segment"][at] = 1
        out["position"][at] = np.arange(len(kept))
        rows.append(out)
    return _stack(rows)


def _empty_row(seq_len: int) -> dict[str, np.ndarray]:
    fields = ("words", "items", "gap", "segment", "position", "target")
    empty = {"items": -1, "target": -1}
    return {f: np.full(seq_len, empty.get(f, 0), np.int32) for f in fields}


def _stack(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {field: np.stack([row[field] for row in rows]) for field in rows[0]}
