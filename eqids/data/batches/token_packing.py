"""Cuts and packs histories whose items are followed by text tokens.

In `packing` all events have the same size; here cuts depend on the tokens between
events. Histories are cut in advance in a few ways, which epochs use in turn, so that
any epoch is computed without the epochs before it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from eqids.data.batches.packing import EpochPlan, Packed, blocks_of

_WAYS = 4
"""Number of ways to cut the histories."""


@dataclass(frozen=True)
class Events:
    """The sizes of all users' events.

    Attributes:
        offsets: where each history starts and ends.
        train_length: number of training events.
        size: positions of the item and its text.
        tied: whether the event may swap with the one before it.
    """

    offsets: Int[np.ndarray, " bound"]
    train_length: Int[np.ndarray, " user"]
    size: Int[np.ndarray, " event"]
    tied: Bool[np.ndarray, " event"]


class TokenPackingPlan:
    """Every epoch's plan, a pure function of (events, prompt, seq_len, seed, epoch).

    A window takes the positions of its inputs, which are all its events but the last.
    If tied events may swap, the smallest event that may come last is subtracted.
    """

    def __init__(self, events: Events, prompt: int, seq_len: int, seed: int):
        """Cuts the histories and packs the windows, in all ways.

        Args:
            events: the histories.
            prompt: positions of the prompt, which begins every window.
            seq_len: positions in a row, enough for any window of one input.
            seed: the seed of the cuts and of the epochs' draws.
        """
        self._seed = seed
        self._before = np.concatenate([[0], np.cumsum(events.size)])
        self._end = self._before[1:] - _least_of_run(events)
        last = np.repeat(
            events.offsets[:-1] + events.train_length - 1, np.diff(events.offsets)
        )
        stops = self._stops(np.arange(len(last)), seq_len - prompt, last)
        self._ways = [
            self._way(
                events, prompt, seq_len, stops, np.random.default_rng((seed, way, 3))
            )
            for way in range(_WAYS)
        ]
        rows = [packed.num_rows for _, packed in self._ways]
        self._first_row = np.concatenate([[0], np.cumsum(rows)])
        pairs = np.maximum(events.train_length.astype(np.int64) - 1, 0)
        self.num_targets = int(pairs.sum())

    @property
    def rows_per_epoch(self) -> float:
        """Rows of an epoch, on average."""
        return float(self._first_row[-1]) / _WAYS

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the epoch of a row of the endless stream, and its number in it."""
        turn, row = divmod(index, int(self._first_row[-1]))
        way = int(np.searchsorted(self._first_row, row, side="right")) - 1
        return turn * _WAYS + way, row - int(self._first_row[way])

    def epoch(self, epoch: int) -> EpochPlan:
        """Returns the plan of one epoch."""
        (user, start, length), packed = self._ways[epoch % _WAYS]
        rng = np.random.default_rng((self._seed, epoch, 0, 2))
        window, row_start, offset = packed.drawn(rng)
        return EpochPlan(row_start, user[window], start[window], length[window], offset)

    def _way(
        self,
        events: Events,
        prompt: int,
        seq_len: int,
        stops: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], Packed]:
        user, at, stop = self._cut(events, seq_len - prompt, stops, rng)
        positions = self._end[stop] - self._before[at]
        # A window of one input takes the larger of its two events, if they may swap.
        larger = np.maximum(events.size[at], events.size[stop])
        one = stop == at + 1
        positions = np.where(one, np.minimum(positions, larger), positions)
        start, length = at - events.offsets[user], stop - at
        block = blocks_of(events.train_length)[user]
        return (user, start, length), Packed(prompt + positions, seq_len, block)

    def _cut(
        self, events: Events, capacity: int, stops: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cuts every history into windows; the length of the first is random.

        Args:
            events: the histories.
            capacity: positions of a window.
            stops: int64 [event], the last event of a window that starts at each event.
            rng: draws the lengths of the first windows.

        Returns:
            The user of each window, its first event and its last one, which is only a
            target; events are numbered over all users.
        """
        user = np.flatnonzero(events.train_length > 1)
        at = events.offsets[user]
        last = at + events.train_length[user] - 1
        whole = self._end[last] - self._before[at] <= capacity
        budget = np.where(whole, capacity, rng.integers(1, capacity + 1, len(user)))
        second = self._stops(at, budget, last)
        later = _reached(second[second < last], stops)
        start = np.concatenate([at, later])
        stop = np.concatenate([second, stops[later]])
        order = np.argsort(start, kind="stable")
        start, stop = start[order], stop[order]
        return np.searchsorted(events.offsets, start, side="right") - 1, start, stop

    def _stops(
        self, at: np.ndarray, capacity: np.ndarray | int, last: np.ndarray
    ) -> np.ndarray:
        """The last event of a window of `capacity` positions, for each first event."""
        end = self._before[at] + capacity
        stop = np.searchsorted(self._end, end, side="right") - 1
        return np.minimum(np.maximum(stop, at + 1), last)


def _reached(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The starts of all windows that follow the windows with the given starts.

    The number of windows that one step skips doubles in each round.

    Args:
        starts: int64 [window], the first events of windows.
        stops: int64 [event], the start of the next window. The entry of a history's
            last event is the event itself, and no window starts there.
    """
    found, ahead = starts, stops
    while len(starts):
        starts = ahead[found]
        starts = starts[stops[starts] != starts]
        found, ahead = np.concatenate([found, starts]), ahead[ahead]
    return found


def _least_of_run(events: Events) -> np.ndarray:
    """int64 [event]: the smallest size from the first event tied with it to itself."""
    tied = events.tied.copy()
    tied[events.offsets[:-1]] = False
    # The sizes of each run are made smaller than those of the run before, so that
    # minima start again.
    depth = np.cumsum(~tied) * (1 + int(events.size.max(initial=0)))
    return np.minimum.accumulate(events.size - depth) + depth
