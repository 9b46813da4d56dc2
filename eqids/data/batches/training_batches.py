"""Batches by number: batch k is a pure function of (dataset, seed, k)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from eqids.config import require
from eqids.data.batches.event_gaps import gap_buckets
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.packing import EpochPlan, PackingPlan
from eqids.data.batches.token_packing import Events, TokenPackingPlan
from eqids.data.batches.tokens import ItemTokens, LaidOut, lay_out, num_newest


@runtime_checkable
class TrainingEvents(Protocol):
    """What batches need of a `Dataset`, whose fields these are."""

    @property
    def path(self) -> Path:
        """The folder, for messages."""

    @property
    def slots(self) -> Int32[np.ndarray, " event"]:
        """The items of all histories, users one after the other."""

    @property
    def times(self) -> Int64[np.ndarray, " event"] | None:
        """Seconds, or none."""

    @property
    def offsets(self) -> Int64[np.ndarray, " bound"]:
        """Where each history starts and ends."""

    @property
    def train_length(self) -> Int[np.ndarray, " user"]:
        """How many of the first events of each history are for training."""

    @property
    def item_valid(self) -> Bool[np.ndarray, "cluster place"]:
        """Places of items that may be targets."""


@dataclass(frozen=True)
class BatchConfig:
    """How histories become batches."""

    seq_len: int = 200
    """Positions in a row; longer histories are cut."""
    batch_size: int = 64
    """Rows in a batch."""
    seed: int = 0
    """Seed of the cuts, the order and the draws below."""
    gap_dropout: float = 0.1
    """Share of windows whose gaps are hidden, so that the model needs no times."""
    shuffle_ties: bool = True
    """Whether each epoch draws a new order of events that have equal times."""
    request_time: bool = False
    """Whether batches say when the request of each position is made: at its target's
    time."""

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"--{name} is {value}, wanted 1 or more")


class TrainingBatches:
    """The endless, seekable stream of training batches."""

    def __init__(
        self,
        dataset: TrainingEvents,
        config: BatchConfig,
        tokens: ItemTokens | None = None,
    ):
        """Plans the epochs.

        Args:
            dataset: the dataset with the training events.
            config: how histories become batches.
            tokens: the tokens of the items' texts, or none.

        Raises:
            UserError: no user has two training events, or rows are too short for an
                item with its text.
        """
        self._dataset = dataset
        self.config = config
        self._tokens = tokens
        self.plan: PackingPlan | TokenPackingPlan
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

    def batch(self, k: int, rows: slice = slice(None)) -> HostBatch:
        """Returns batch k, or only these rows of it."""
        size = self.config.batch_size
        own = range(size)[rows]
        out = HostBatch.empty(len(own), self.config.seq_len, self.config.request_time)
        for at, row in enumerate(own):
            self._fill_row(out, at, k * size + row)
        return out

    def iterate(
        self, start: int, stop: int, rows: slice = slice(None)
    ) -> Iterator[HostBatch]:
        """Yields batches start to stop - 1, made ahead of time on another thread.

        Args:
            start: the first batch's number.
            stop: one past the last.
            rows: the rows to make of each batch.
        """
        import grain  # only iteration needs it

        make = functools.partial(self.batch, rows=rows)
        batches = grain.MapDataset.range(start, stop).map(make)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        return iter(batches.to_iter_dataset(options))

    def _fill_row(self, out: HostBatch, at: int, index: int) -> None:
        """Writes one row of the endless stream into row `at` of a batch."""
        epoch, row = self.plan.locate(index)
        plan = self._epoch(epoch)
        rng = np.random.default_rng((self.config.seed, epoch, row, 1))
        windows = range(plan.row_start[row], plan.row_start[row + 1])
        for segment, window in enumerate(windows, start=1):
            laid, targets, requests = self._window(plan, window, rng)
            first = int(plan.offset[window])
            _write(out, at, first, laid, requests, segment)
            out.target[at, first + laid.ends] = targets

    def _window(
        self, plan: EpochPlan, window: int, rng: np.random.Generator
    ) -> tuple[LaidOut, Int32[np.ndarray, " event"], Int32[np.ndarray, " event"]]:
        """One window as positions, what each event predicts, and its request's gap."""
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
        # Retired items remain inputs, but are no targets.
        targets = np.where(self._valid[slots[1:]], slots[1:], np.int32(-1))
        # The next item is requested when it is used.
        return lay_out(slots[:-1], gaps[:-1], self._tokens), targets, gaps[1:]


def query_batch(
    histories: Sequence[np.ndarray],
    times: Sequence[np.ndarray | None],
    seq_len: int,
    tokens: ItemTokens | None = None,
    request_times: Sequence[int | None] | None = None,
) -> HostBatch:
    """Returns a batch with the end of one history in each row, without targets.

    Items are kept with their whole text or not at all.

    Args:
        histories: slots of each history, oldest first, at least one event.
        times: the times of each history, or none.
        seq_len: positions in a row.
        tokens: as in training.
        request_times: the time at which each history's next item is requested, where
            it is known, not before the last event; only for a model that reads it.
    """
    out = HostBatch.empty(len(histories), seq_len, request_times is not None)
    asked = request_times or [None] * len(histories)
    for row, (slots, seconds) in enumerate(zip(histories, times, strict=True)):
        kept = num_newest(slots, seq_len, tokens)
        kept_times = None if seconds is None else seconds[-kept:]
        gaps = gap_buckets(kept_times, kept)
        requests = np.append(gaps[1:], request_gap(kept_times, asked[row]))
        laid = lay_out(slots[-kept:], gaps, tokens)
        _write(out, row, 0, laid, requests, segment=1)
    return out


def request_gap(
    times: Int64[np.ndarray, " event"] | None, request_time: int | None
) -> np.int32:
    """Returns the bucket of the time between the last event and the request."""
    if times is None or request_time is None:
        return np.int32(0)
    return gap_buckets(np.append(times[-1:], request_time), 2)[1]


def last_positions(batch: HostBatch) -> Int32[np.ndarray, " batch"]:
    """Returns the last position of each row of a `query_batch`."""
    return np.count_nonzero(batch.segment, axis=1).astype(np.int32) - 1


def _planned(
    dataset: TrainingEvents, config: BatchConfig, tokens: ItemTokens
) -> TokenPackingPlan:
    tied = np.zeros(len(dataset.slots), np.bool_)
    if dataset.times is not None and config.shuffle_ties:
        tied[1:] = np.diff(dataset.times) == 0
    size = 1 + tokens.length[dataset.slots]
    events = Events(dataset.offsets, dataset.train_length, size, tied)
    return TokenPackingPlan(events, len(tokens.prompt), config.seq_len, config.seed)


def _write(
    out: HostBatch,
    row: int,
    first: int,
    laid: LaidOut,
    requests: Int32[np.ndarray, " event"],
    segment: int,
) -> None:
    """Writes a history into a row from position `first` on; targets are not changed."""
    at = row, slice(first, first + len(laid.items))
    out.tokens[at], out.items[at], out.gap[at] = laid.tokens, laid.items, laid.gap
    out.segment[at] = segment
    out.position[at] = np.arange(len(laid.items))
    if out.request_gap is not None:
        out.request_gap[row, first + laid.ends] = requests
