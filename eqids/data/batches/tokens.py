"""Items and their words in one sequence: the only place that says how they alternate.

    prompt …  item  word word …  item  word word …

Training, evaluation and recommending all lay histories out here, so that they cannot
differ. An item's words follow it, so that no word of what is to be predicted is seen.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from eqids.config import TokensConfig, require


class Laid(NamedTuple):
    """A history as positions of a sequence.

    Attributes:
        tokens: int32 [position], tokens; 0 where an item stands.
        items: int32 [position], slots; -1 where a word stands.
        gap: int32 [position], the item's; 0 where a word stands.
        ends: int64 [event], the last position of each item with its words, where the
            next item is predicted.
    """

    tokens: np.ndarray
    items: np.ndarray
    gap: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class ItemTokens:
    """What every sequence opens with, and the tokens that follow each item."""

    ids: np.ndarray
    """int32 [token]: the words of all items."""
    first: np.ndarray
    """int64 [slot]: where an item's words begin in `ids`."""
    length: np.ndarray
    """int64 [slot]: how many they are, 0 for none."""
    prompt: np.ndarray
    """int32 [token]: what every sequence opens with."""
    per_item: int = 0
    """Words of an item at most."""
    tokenizer: str = ""
    """SHA-256 of the tokenizer's file."""
    vocab: int = 0
    """Tokens that the tokenizer knows."""

    @property
    def least_seq_len(self) -> int:
        """The positions that the prompt and one item with its words may take."""
        return len(self.prompt) + 1 + self.per_item

    @functools.cached_property
    def vocab_used(self) -> int:
        """One more than the largest token that occurs."""
        return 1 + max(int(self.ids.max(initial=-1)), int(self.prompt.max(initial=-1)))

    @functools.cached_property
    def config(self) -> TokensConfig:
        """What checkpoints record."""
        digest = hashlib.sha256()
        at = np.repeat(self.first - _starts(self.length), self.length)
        for array in (self.prompt, self.ids[at + np.arange(len(at))]):
            digest.update(array.astype("<i4").tobytes() + b";")
        digest.update(self.length.astype("<i8").tobytes())
        return TokensConfig(self.tokenizer, digest.hexdigest())

    def check(self, seq_len: int) -> None:
        """Requires that the prompt and an item with its words fit into `seq_len`.

        Raises:
            UserError: they do not.
        """
        require(
            seq_len >= self.least_seq_len,
            f"--seq_len is {seq_len}, wanted at least {self.least_seq_len} positions: "
            f"{len(self.prompt)} of the prompt, an item and its "
            f"--text_tokens_per_item {self.per_item}",
        )

    def moved(self, slot: np.ndarray, num_slots: int) -> "ItemTokens":
        """Returns the same words of items that stand in other slots.

        Args:
            slot: int [slot], the other slot of each item; -1: it has none.
            num_slots: how many other slots there are.
        """
        kept = np.flatnonzero((slot >= 0) & (self.length > 0))
        first, length = np.zeros((2, num_slots), np.int64)
        first[slot[kept]], length[slot[kept]] = self.first[kept], self.length[kept]
        return replace(self, first=first, length=length)


def tokens_by_slot(
    ids: np.ndarray,
    offsets: np.ndarray,
    prompt: np.ndarray,
    per_item: int,
    tokenizer: str = "",
    vocab: int = 0,
) -> ItemTokens:
    """Returns the first words of every item.

    Args:
        ids: int32 [token], all words of all items, in the order of slots.
        offsets: int64 [slot + 1], where each item's begin and end.
        prompt: int32 [token].
        per_item: words of an item at most.
        tokenizer: SHA-256 of the tokenizer's file.
        vocab: tokens that the tokenizer knows.
    """
    length = np.minimum(np.diff(offsets), per_item)
    return ItemTokens(ids, offsets[:-1], length, prompt, per_item, tokenizer, vocab)


def num_newest(slots: np.ndarray, seq_len: int, tokens: ItemTokens | None) -> int:
    """Returns how many of the last items fit, with all of their words.

    Args:
        slots: int [event], oldest first.
        seq_len: positions that there are.
        tokens: beside the items, or none.
    """
    if tokens is None:
        return min(len(slots), seq_len)
    newest_first = slots[-seq_len:][::-1]
    positions = len(tokens.prompt) + np.cumsum(1 + tokens.length[newest_first])
    return int(np.searchsorted(positions, seq_len, side="right"))


def lay_out(slots: np.ndarray, gaps: np.ndarray, tokens: ItemTokens | None) -> Laid:
    """Returns the sequence of a history.

    Args:
        slots: int [event], oldest first, at least one.
        gaps: int [event], see `gap_buckets`.
        tokens: beside the items, or none.
    """
    if tokens is None:
        return Laid(np.zeros_like(slots), slots, gaps, np.arange(len(slots)))
    length, opening = tokens.length[slots], len(tokens.prompt)
    after = opening + np.cumsum(1 + length)
    at = after - 1 - length
    token_ids, gap = np.zeros((2, int(after[-1])), np.int32)
    items = np.full(len(token_ids), -1, np.int32)
    items[at], gap[at] = slots, gaps
    token_ids[:opening] = tokens.prompt
    # The words of item i lie at `ids[first[i]:]`, and here from `at[i] + 1` on.
    is_word = items < 0
    is_word[:opening] = False
    moved = np.repeat(tokens.first[slots] - at - 1, length)
    token_ids[is_word] = tokens.ids[np.flatnonzero(is_word) + moved]
    return Laid(token_ids, items, gap, after - 1)


def _starts(length: np.ndarray) -> np.ndarray:
    return np.cumsum(length) - length
