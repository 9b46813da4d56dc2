"""The windows of some rows with their draws, all rows at once.

A thread makes batches beside the train step, on the same cores and with the same
interpreter. So its work is a few operations on arrays of a whole batch; only the random
generators, of which each row has its own, are made one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from eqids.data.batches.event_gaps import gap_buckets
from eqids.data.batches.packing import EpochPlan
from eqids.data.batches.training_events import TrainingEvents


@dataclass(frozen=True)
class Windows:
    """Windows of some rows of a batch.

    Attributes:
        at: the row of each window in the batch.
        segment: its number in the row, from 1 on.
        first: its first event in the dataset.
        length: number of inputs; it has one event more.
        offset: its first position in the row.
        seeds: of each row, the epoch and its number there.
        per_row: number of windows of each row.
    """

    at: Int[np.ndarray, " window"]
    segment: Int[np.ndarray, " window"]
    first: Int[np.ndarray, " window"]
    length: Int[np.ndarray, " window"]
    offset: Int[np.ndarray, " window"]
    seeds: Sequence[tuple[int, int]]
    per_row: Int[np.ndarray, " row"]


@dataclass(frozen=True)
class WindowEvents:
    """The events of windows, one window after the other.

    Attributes:
        slots: the items, after ties were shuffled.
        gaps: buckets of the times before them, 0 where they are hidden.
        end: one past the last event of each window.
    """

    slots: Int32[np.ndarray, " event"]
    gaps: Int32[np.ndarray, " event"]
    end: Int[np.ndarray, " window"]


def windows_of(
    located: Sequence[tuple[int, int]],
    plan_of: Callable[[int], EpochPlan],
    offsets: Int64[np.ndarray, " bound"],
) -> Windows:
    """Returns the windows of some rows.

    Args:
        located: the epoch of each row, and its number in it.
        plan_of: returns an epoch's plan.
        offsets: where each user's events begin in the dataset.
    """
    found: list[list[np.ndarray]] = [[] for _ in range(6)]
    done = 0
    for epoch, group in groupby(located, itemgetter(0)):
        plan, rows = plan_of(epoch), np.array([row for _, row in group])
        begin = plan.row_start[rows]
        counts = plan.row_start[rows + 1] - begin
        at, within = _ranges(counts)
        window = begin[at] + within
        first = offsets[plan.user[window]] + plan.start[window]
        parts = at + done, within + 1, first, plan.length[window], plan.offset[window]
        for values, part in zip(found, (*parts, counts), strict=True):
            values.append(part)
        done += len(rows)
    at, segment, first, length, offset, per_row = map(np.concatenate, found)
    return Windows(at, segment, first, length, offset, located, per_row)


def events_of(
    dataset: TrainingEvents,
    windows: Windows,
    seed: int,
    *,
    shuffle_ties: bool,
    gap_dropout: float,
) -> WindowEvents:
    """Returns the events of windows, after the draws of their rows.

    A row draws, for one window after the other, a number for each event if ties are
    shuffled, and then one that decides whether the gaps are hidden.

    Args:
        dataset: the dataset with the training events.
        windows: the windows.
        seed: of the draws.
        shuffle_ties: whether events with equal times are put in a random order.
        gap_dropout: share of windows whose gaps are hidden.
    """
    size = windows.length + 1
    window, within = _ranges(size)
    event = windows.first[window] + within
    slots, end = dataset.slots[event], np.cumsum(size)
    if dataset.times is None:
        return WindowEvents(slots, np.zeros(len(slots), np.int32), end)
    times, begins = dataset.times[event], within == 0
    drawn = size + 1 if shuffle_ties else np.ones_like(size)
    draws, last = _draws(windows, drawn, seed), np.cumsum(drawn) - 1
    if shuffle_ties:
        is_last = np.zeros(len(draws), np.bool_)
        is_last[last] = True
        slots = slots[_shuffled(times, begins, draws[~is_last])]
    gaps = gap_buckets(times, len(times))
    gaps[begins | (draws[last] < gap_dropout)[window]] = 0
    return WindowEvents(slots, gaps, end)


def _draws(
    windows: Windows, drawn: Int[np.ndarray, " window"], seed: int
) -> Float64[np.ndarray, " draw"]:
    """Returns the numbers that rows draw.

    Args:
        windows: the windows.
        drawn: how many numbers are drawn for each.
        seed: the seed.
    """
    bounds = np.concatenate([[0], np.cumsum(drawn)])
    ends = bounds[np.cumsum(windows.per_row)]
    out, start = np.empty(bounds[-1]), 0
    for (epoch, row), end in zip(windows.seeds, ends.tolist(), strict=True):
        # The same generator as of the numbers themselves, in two thirds of the time.
        numbers = (seed, epoch, row, 1)
        words = np.array(numbers, np.uint32) if seed < 2**32 else numbers
        np.random.default_rng(words).random(out=out[start:end])
        start = end
    return out


def _shuffled(
    times: Int64[np.ndarray, " event"],
    begins: Bool[np.ndarray, " event"],
    draws: Float64[np.ndarray, " event"],
) -> Int[np.ndarray, " event"]:
    """Returns an order in which events of one window with equal times swap places.

    Args:
        times: not descending within a window.
        begins: whether an event is the first of its window.
        draws: a random number of each event.
    """
    differs = begins.copy()
    differs[1:] |= times[1:] != times[:-1]
    return np.lexsort((draws, np.cumsum(differs)))


def _ranges(
    counts: Int[np.ndarray, " range"],
) -> tuple[Int[np.ndarray, " value"], Int[np.ndarray, " value"]]:
    """Returns the number of each value's range, and its index within it."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
