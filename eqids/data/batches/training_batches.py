"""Batches by number: batch k is a pure function of (dataset, seed, k)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from eqids.config import require
from eqids.data.batches.drawn_windows import Windows, events_of, windows_of
from eqids.data.batches.event_gaps import gap_buckets
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.mapped_events import MappedEvents
from eqids.data.batches.packing import PackingPlan
from eqids.data.batches.token_packing import Events, TokenPackingPlan
from eqids.data.batches.tokens import ItemTokens, LaidOut, lay_out, num_newest
from eqids.data.batches.training_events import TrainingEvents


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
        self._mapped = MappedEvents((dataset.slots, dataset.times))
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
        located = [self.plan.locate(k * size + row) for row in own]
        if located:
            self._fill(out, windows_of(located, self._epoch, self._dataset.offsets))
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

    def _fill(self, out: HostBatch, windows: Windows) -> None:
        """Writes windows into the rows of an empty batch."""
        config = self.config
        self._mapped.ask(windows.first, windows.first + windows.length)
        events = events_of(
            self._dataset,
            windows,
            config.seed,
            shuffle_ties=config.shuffle_ties,
            gap_dropout=config.gap_dropout,
        )
        slots, gaps = events.slots, events.gaps
        # Each event but a window's last is an input, each but its first a target.
        # Retired items remain inputs, but are no targets.
        follows = np.ones(len(slots), np.bool_)
        follows[events.end - 1 - windows.length] = False
        precedes = np.append(follows[1:], False)
        targets = np.where(self._valid[slots], slots, np.int32(-1))[follows]
        inputs = WindowInputs(slots[precedes], gaps[precedes], targets, gaps[follows])
        if self._tokens is None:
            _write_all(out, windows, inputs)
        else:
            _write_each(out, windows, inputs, self._tokens)


class WindowInputs(NamedTuple):
    """The inputs of windows, one window after the other."""

    slots: Int32[np.ndarray, " input"]
    gaps: Int32[np.ndarray, " input"]
    targets: Int32[np.ndarray, " input"]
    requests: Int32[np.ndarray, " input"]
    """Gaps of the next events: an item is requested when it is used."""


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


def _write_all(out: HostBatch, windows: Windows, inputs: WindowInputs) -> None:
    """Writes windows without text, all at once."""
    length = windows.length
    begin = np.cumsum(length) - length
    position = np.arange(len(inputs.slots)) - np.repeat(begin, length)
    first = windows.at * out.items.shape[1] + windows.offset
    at = np.repeat(first, length) + position
    out.items.reshape(-1)[at] = inputs.slots
    out.gap.reshape(-1)[at] = inputs.gaps
    out.segment.reshape(-1)[at] = np.repeat(windows.segment, length)
    out.position.reshape(-1)[at] = position
    out.target.reshape(-1)[at] = inputs.targets
    if out.request_gap is not None:
        out.request_gap.reshape(-1)[at] = inputs.requests


def _write_each(
    out: HostBatch, windows: Windows, inputs: WindowInputs, tokens: ItemTokens
) -> None:
    """Writes windows with text, one after the other."""
    end = 0
    for row, segment, length, offset in zip(
        windows.at, windows.segment, windows.length, windows.offset, strict=True
    ):
        some = slice(end, end + int(length))
        laid = lay_out(inputs.slots[some], inputs.gaps[some], tokens)
        first, end = int(offset), some.stop
        _write(out, int(row), first, laid, inputs.requests[some], int(segment))
        out.target[int(row), first + laid.ends] = inputs.targets[some]


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
