"""Cut and pack histories in which items take as many positions as they have words.

Where `packing` has events of one size, cuts here depend on the words between them. So
that an epoch of any number is found without those before it, histories are cut in a
few ways ahead, and epochs take them in turns.
"""

from dataclasses import dataclass

import numpy as np

from eqids.data.batches.packing import EpochPlan, Packed

_WAYS = 4
"""Ways to cut the histories."""


@dataclass(frozen=True)
class Events:
    """The events of all users, as far as packing goes.

    Attributes:
        offsets: int64 [user + 1], where each history starts and ends.
        train_length: int [user], number of training events.
        size: int64 [event], positions of the item and its words.
        tied: bool [event], whether it trades places with the one before it.
    """

    offsets: np.ndarray
    train_length: np.ndarray
    size: np.ndarray
    tied: np.ndarray


class TokenPackingPlan:
    """Every epoch's plan, a pure function of (events, prompt, seq_len, seed, epoch).

    A window takes the positions of its inputs, which are all its events but the last;
    where events trade places, any of those that may come last. Room is kept for the
    worst of them.
    """

    def __init__(self, events: Events, prompt: int, seq_len: int, seed: int):
        """Cuts and packs all ways.

        Args:
            events: the histories.
            prompt: positions that every window opens with.
            seq_len: positions in a row, enough for any window of one input.
            seed: of the cuts and of the epochs' draws.
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
        """Returns the epoch of a row of the endless stream, and its number there."""
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
        # Of one input, whichever of the two events it is.
        larger = np.maximum(events.size[at], events.size[stop])
        one = stop == at + 1
        positions = np.where(one, np.minimum(positions, larger), positions)
        start, length = at - events.offsets[user], stop - at
        return (user, start, length), Packed(prompt + positions, seq_len)

    def _cut(
        self, events: Events, room: int, stops: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cuts every history into windows of `room` positions, the first at random.

        Args:
            events: the histories.
            cluster_size: positions of a window.
            stops: int64 [event], the last event of a window that starts there.
            rng: for the first windows.

        Returns:
            Of each window the user, its first event and its last, which is predicted
            only; events are numbered over all users.
        """
        user = np.flatnonzero(events.train_length > 1)
        at = events.offsets[user]
        last = at + events.train_length[user] - 1
        whole = self._end[last] - self._before[at] <= room
        budget = np.where(whole, room, rng.integers(1, room + 1, len(user)))
        second = self._stops(at, budget, last)
        later = _reached(second[second < last], stops)
        start = np.concatenate([at, later])
        stop = np.concatenate([second, stops[later]])
        order = np.argsort(start, kind="stable")
        start, stop = start[order], stop[order]
        return np.searchsorted(events.offsets, start, side="right") - 1, start, stop

    def _stops(
        self, at: np.ndarray, room: np.ndarray | int, last: np.ndarray
    ) -> np.ndarray:
        """The last event of a window of `room` positions: one more at least, if any."""
        stop = np.searchsorted(self._end, self._before[at] + room, side="right") - 1
        return np.minimum(np.maximum(stop, at + 1), last)


def _reached(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Where windows start that follow one another, from these starts on.

    A history is not walked window by window: of twice as many windows each round.

    Args:
        starts: int64 [some], events.
        stops: int64 [event], where the next window starts; the last event of a
            history leads to itself, and no window starts there.
    """
    found, ahead = starts, stops
    while len(starts):
        starts = ahead[found]
        starts = starts[stops[starts] != starts]
        found, ahead = np.concatenate([found, starts]), ahead[ahead]
    return found


def _least_of_run(events: Events) -> np.ndarray:
    """int64 [event]: the smallest size from where its ties begin to itself."""
    tied = events.tied.copy()
    tied[events.offsets[:-1]] = False
    # Each run lies below the one before it, so that minima begin anew.
    depth = np.cumsum(~tied) * (1 + int(events.size.max(initial=0)))
    return np.minimum.accumulate(events.size - depth) + depth
