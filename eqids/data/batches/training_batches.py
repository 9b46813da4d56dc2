"""Batches by number: batch k is a pure function of (dataset, seed, k)."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from eqids.config import require
from eqids.data.batches.packing import EpochPlan, PackingPlan
from eqids.data.batches.token_packing import Events, WordPackingPlan
from eqids.data.batches.tokens import ItemTokens, Laid, lay_out, num_newest
from eqids.data.dataset import Dataset

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

    def __init__(
        self, dataset: Dataset, config: BatchConfig, tokens: ItemTokens | None = None
    ):
        """Plans the epochs.

        Args:
            dataset: whose training events.
            config: how they become batches.
            tokens: beside the items, or none.

        Raises:
            UserError: no user has two training events, or rows are too short for an
                item with its words.
        """
        self._dataset = dataset
        self.config = config
        self._words = tokens
        self.plan: PackingPlan | WordPackingPlan
        if tokens is None:
            self.plan = PackingPlan(dataset.train_length, config.seq_len, config.seed)
        else:
            tokens.check(config.seq_len)
            self.plan = _planned(dataset, config, tokens)
        require(
            self.plan.num_targets > 0,
            f"{dataset.path}: no user has two training events, so there is nothing to "
            "train on",
        )
        self._valid = dataset.item_valid.reshape(-1)
        self._epoch = functools.lru_cache(maxsize=2)(self.plan.epoch)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in an epoch, on average; a batch may straddle two."""
        return self.plan.rows_per_epoch / self.config.batch_size

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
        epoch, row = self.plan.locate(index)
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
        gaps = gap_buckets(times, length + 1)
        laid = lay_out(slots[:-1], gaps[:-1], self._words)
        first = int(plan.offset[window])
        _write(out, laid, slice(first, first + len(laid.items)), segment)
        # Retired items are read, and never asked for.
        wanted = np.where(self._valid[slots[1:]], slots[1:], -1)
        out["target"][first + laid.ends] = wanted


def query_batch(
    histories: Sequence[np.ndarray],
    times: Sequence[np.ndarray | None],
    seq_len: int,
    tokens: ItemTokens | None = None,
) -> Arrays:
    """Returns a batch of one history a row, the end that fits, without targets.

    Items are kept with all of their words or not at all.

    Args:
        histories: slots of each history, oldest first, at least one event.
        times: the times of each, or none.
        seq_len: positions in a row.
        tokens: as in training.
    """
    rows = []
    for slots, seconds in zip(histories, times, strict=True):
        out, kept = _empty_row(seq_len), num_newest(slots, seq_len, tokens)
        kept_times = None if seconds is None else seconds[-kept:]
        laid = lay_out(slots[-kept:], gap_buckets(kept_times, kept), tokens)
        _write(out, laid, slice(len(laid.items)), 1)
        rows.append(out)
    return _stack(rows)


def last_positions(batch: Arrays) -> np.ndarray:
    """Returns where each row of a `query_batch` ends, and is asked: int32 [batch]."""
    return np.count_nonzero(batch["segment"], axis=1).astype(np.int32) - 1


def _planned(
    dataset: Dataset, config: BatchConfig, tokens: ItemTokens
) -> WordPackingPlan:
    tied = np.zeros(len(dataset.slots), np.bool_)
    if dataset.times is not None and config.shuffle_ties:
        tied[1:] = np.diff(dataset.times) == 0
    size = 1 + tokens.length[dataset.slots]
    events = Events(dataset.offsets, dataset.train_length, size, tied)
    return WordPackingPlan(events, len(tokens.prompt), config.seq_len, config.seed)


def _write(out: Arrays, laid: Laid, at: slice, segment: int) -> None:
    for field in ("tokens", "items", "gap"):
        out[field][at] = getattr(laid, field)
    out["segment"][at] = segment
    out["position"][at] = np.arange(len(laid.items))


def _empty_row(seq_len: int) -> dict[str, np.ndarray]:
    fields = ("tokens", "items", "gap", "segment", "position", "target")
    empty = {"items": -1, "target": -1}
    return {f: np.full(seq_len, empty.get(f, 0), np.int32) for f in fields}


def _stack(rows: Sequence[Arrays]) -> dict[str, np.ndarray]:
    return {field: np.stack([row[field] for row in rows]) for field in rows[0]}
