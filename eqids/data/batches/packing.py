"""Cuts training histories into windows, and packs the windows into rows.

Which window lengths share a row depends only on the lengths of the histories. So
packing is done once, every epoch has the same number of rows, and row r of epoch e is
computed without the rows before it. Each epoch draws where histories are cut, which
windows of equal length swap places, and the order of the rows.

Many events are shuffled in groups: an epoch draws which blocks of neighbouring users
make a group, and takes the windows of one group after the other. So memory has to hold
two groups at a time, and the disk is read a block at a time, not an event at a time.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

_BLOCK_EVENTS = 2**16
"""Events of neighbouring users that are read together: 0.8 MB."""
_GROUP_BLOCKS = 2**8
"""Blocks that are shuffled together: 0.2 GB. Fewer are shuffled as a whole."""


@dataclass(frozen=True)
class EpochPlan:
    """The windows of one epoch, sorted by their row.

    Attributes:
        row_start: the first window of each row.
        user: the user of each window.
        start: the first event of each window in the user's history.
        length: number of inputs, each with the next event as target.
        offset: the first position of each window in its row.
    """

    row_start: Int[np.ndarray, " rows_and_end"]
    user: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]
    length: Int[np.ndarray, " window"]
    offset: Int[np.ndarray, " window"]


class PackingPlan:
    """Every epoch's plan, a pure function of (lengths, seq_len, seed, epoch)."""

    def __init__(self, train_length: np.ndarray, seq_len: int, seed: int):
        """Cuts the histories and packs the windows, once for all epochs.

        Args:
            train_length: int [user], number of training events.
            seq_len: positions in a row.
            seed: the seed of the epochs' draws.
        """
        pairs = np.maximum(train_length.astype(np.int64) - 1, 0)
        full, rest = np.divmod(pairs, seq_len)
        self._full, self._rest, self._seed = full, rest, seed
        self._seq_len = seq_len
        users = np.arange(len(pairs))
        # A user's windows are consecutive: the full windows, then the shorter one.
        num_windows = full + (rest > 0)
        self._user = np.repeat(users, num_windows)
        first = np.cumsum(num_windows) - num_windows
        self._index = np.arange(len(self._user)) - first[self._user]
        is_rest = self._index == full[self._user]
        self._length = np.where(is_rest, rest[self._user], seq_len)
        block = blocks_of(train_length)[self._user]
        self._packed = Packed(self._length, seq_len, block)
        self.num_rows = self._packed.num_rows
        self.num_targets = int(pairs.sum())

    @property
    def rows_per_epoch(self) -> float:
        """Rows of an epoch."""
        return float(self.num_rows)

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the epoch of a row of the endless stream, and its number in it."""
        return divmod(index, self.num_rows)

    def epoch(self, epoch: int) -> EpochPlan:
        """Returns the plan of one epoch."""
        # The last number makes these draws independent of those of any row.
        rng = np.random.default_rng((self._seed, epoch, 0, 2))
        window, row_start, offset = self._packed.drawn(rng)
        return EpochPlan(
            row_start=row_start,
            user=self._user[window],
            start=self._starts(rng)[window],
            length=self._length[window],
            offset=offset,
        )

    def _starts(self, rng: np.random.Generator) -> np.ndarray:
        """Where each window starts; the shorter window comes before one of the full
        ones."""
        before = rng.integers(0, self._full + 1)[self._user]
        rest = self._rest[self._user]
        shifted = self._index * self._seq_len + np.where(self._index >= before, rest, 0)
        is_rest = self._index == self._full[self._user]
        return np.where(is_rest, before * self._seq_len, shifted)


def blocks_of(train_length: Int[np.ndarray, " user"]) -> Int[np.ndarray, " user"]:
    """Returns the number of the block that each user's events are in.

    Args:
        train_length: number of training events.
    """
    before = np.cumsum(train_length, dtype=np.int64) - train_length
    return before // _BLOCK_EVENTS


class Packed:
    """Windows packed into rows once; in every epoch, windows of equal length swap
    places."""

    def __init__(self, lengths: np.ndarray, capacity: int, block: np.ndarray):
        """Packs the windows.

        Args:
            lengths: int [window], positions of each window, from 1 to `capacity`.
            capacity: positions in a row.
            block: int [window], the block of each window's events.
        """
        self._lengths = lengths
        self._block = block if block.max(initial=0) >= _GROUP_BLOCKS else None
        self._row, self._offset = pack(np.sort(lengths)[::-1], capacity)
        self.num_rows = int(self._row.max(initial=-1)) + 1

    def drawn(
        self, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws the places of windows, and the order of the rows.

        Returns:
            int64 [window], windows in the order of their rows; int64 [row + 1], the
            first window of each row; int64 [window], the first position of each.
        """
        window = rng.permutation(len(self._lengths))
        if self._block is not None:
            group = rng.permutation(self._block.max() + 1) // _GROUP_BLOCKS
            window = window[np.argsort(group[self._block[window]], kind="stable")]
        window = window[np.argsort(-self._lengths[window], kind="stable")]
        row = rng.permutation(self.num_rows)[self._row]
        if self._block is not None:
            # Of the places for windows of one length, the first rows get those of the
            # first group.
            places = np.lexsort((row, -self._lengths[window]))
            window = window[np.argsort(places)]
        order = np.argsort(row, kind="stable")
        counts = np.bincount(row, minlength=self.num_rows)
        row_start = np.concatenate([[0], np.cumsum(counts)])
        return window[order], row_start, self._offset[order]


def pack(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Packs by best fit, all windows of equal length at a time.

    Args:
        lengths: int [window], in descending order, each from 1 to `capacity`.
        capacity: positions in a row.

    Returns:
        The row of each window and its first position there.
    """
    row, offset = np.empty_like(lengths), np.empty_like(lengths)
    rows_by_space = [np.empty(0, np.int64) for _ in range(capacity + 1)]
    num_rows, done = 0, 0
    while done < len(lengths):
        length = int(lengths[done])
        left = int(np.searchsorted(-lengths, -length, side="right")) - done
        spaces = range(length, capacity + 1)
        space = next((s for s in spaces if len(rows_by_space[s])), None)
        if space is None:
            space = capacity
            wanted = -(-left // (capacity // length))
            rows_by_space[space] = np.arange(num_rows, num_rows + wanted)
            num_rows += wanted
        taken, kept = np.split(
            rows_by_space[space], [min(left, len(rows_by_space[space]))]
        )
        row[done : done + len(taken)] = taken
        offset[done : done + len(taken)] = capacity - space
        rows_by_space[space] = kept
        rest = rows_by_space[space - length]
        rows_by_space[space - length] = np.concatenate([rest, taken])
        done += len(taken)
    return row, offset
