"""Items and the tokens of their texts in one sequence.

    prompt …  item  token token …  item  token token …

Training, evaluation and recommendation all lay out histories with this module, so that
their sequences are the same. An item's text follows the item, so that the model sees no
token of the target.
"""

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64

from eqids.config import TokensConfig, require


class LaidOut(NamedTuple):
    """A history as positions of a sequence.

    Attributes:
        tokens: text tokens; 0 at the position of an item.
        items: slots; -1 at the position of a text token.
        gap: the gap of the item; 0 at the position of a text token.
        ends: the last position of each item and its text, which predicts the next
            item.
    """

    tokens: Int32[np.ndarray, " position"]
    items: Int32[np.ndarray, " position"]
    gap: Int32[np.ndarray, " position"]
    ends: Int64[np.ndarray, " event"]


@dataclass(frozen=True, eq=False)
class ItemTokens:
    """The tokens of the prompt, and those that follow each item."""

    ids: Int32[np.ndarray, " token"]
    """The tokens of all items."""
    first: Int64[np.ndarray, " slot"]
    """The index of each item's first token in `ids`."""
    length: Int64[np.ndarray, " slot"]
    """The number of each item's tokens."""
    prompt: Int32[np.ndarray, " prompt"]
    """The tokens that begin every sequence."""
    per_item: int = 0
    """Most tokens of an item."""
    tokenizer: str = ""
    """SHA-256 of the tokenizer's file."""
    vocab: int = 0
    """Tokens in the tokenizer's vocabulary."""

    @property
    def least_seq_len(self) -> int:
        """The positions of the prompt and one item with a text of full length."""
        return len(self.prompt) + 1 + self.per_item

    @functools.cached_property
    def vocab_used(self) -> int:
        """One more than the largest token that occurs."""
        return 1 + max(int(self.ids.max(initial=-1)), int(self.prompt.max(initial=-1)))

    @functools.cached_property
    def config(self) -> TokensConfig:
        """The identity of these tokens, which checkpoints record."""
        digest = hashlib.sha256()
        at = np.repeat(self.first - _starts(self.length), self.length)
        for array in (self.prompt, self.ids[at + np.arange(len(at))]):
            digest.update(array.astype("<i4").tobytes() + b";")
        digest.update(self.length.astype("<i8").tobytes())
        return TokensConfig(self.tokenizer, digest.hexdigest())

    def check(self, seq_len: int) -> None:
        """Requires that the prompt and an item with its text fit into `seq_len`.

        Raises:
            UserError: the prompt and the item do not fit.
        """
        require(
            seq_len >= self.least_seq_len,
            f"--seq_len is {seq_len}, wanted at least {self.least_seq_len} positions: "
            f"{len(self.prompt)} of the prompt, an item and its "
            f"--text_tokens_per_item {self.per_item}",
        )

    def remapped(self, slot: Int[np.ndarray, " slot"], num_slots: int) -> "ItemTokens":
        """Returns the same tokens for items in other slots.

        Args:
            slot: the new slot of each item; -1 for none.
            num_slots: number of new slots.
        """
        kept = np.flatnonzero((slot >= 0) & (self.length > 0))
        first, length = np.zeros((2, num_slots), np.int64)
        first[slot[kept]], length[slot[kept]] = self.first[kept], self.length[kept]
        return replace(self, first=first, length=length)


def tokens_by_slot(
    ids: Int32[np.ndarray, " token"],
    offsets: Int64[np.ndarray, " bound"],
    prompt: Int32[np.ndarray, " prompt"],
    per_item: int,
    tokenizer: str = "",
    vocab: int = 0,
) -> ItemTokens:
    """Returns the first tokens of every item.

    Args:
        ids: all tokens of all items, in the order of slots.
        offsets: where each item's tokens begin and end.
        prompt: tokens of the prompt.
        per_item: most tokens of an item.
        tokenizer: SHA-256 of the tokenizer's file.
        vocab: tokens in the tokenizer's vocabulary.
    """
    length = np.minimum(np.diff(offsets), per_item)
    return ItemTokens(ids, offsets[:-1], length, prompt, per_item, tokenizer, vocab)


def num_newest(slots: np.ndarray, seq_len: int, tokens: ItemTokens | None) -> int:
    """Returns how many of the last items fit into a sequence, texts included.

    Args:
        slots: int [event], oldest first.
        seq_len: positions of the sequence.
        tokens: the tokens of the items' texts, or none.
    """
    if tokens is None:
        return min(len(slots), seq_len)
    newest_first = slots[-seq_len:][::-1]
    positions = len(tokens.prompt) + np.cumsum(1 + tokens.length[newest_first])
    return int(np.searchsorted(positions, seq_len, side="right"))


def lay_out(
    slots: Int32[np.ndarray, " event"],
    gaps: Int32[np.ndarray, " event"],
    tokens: ItemTokens | None,
) -> LaidOut:
    """Returns a history as a sequence.

    Args:
        slots: oldest first, at least one.
        gaps: see `gap_buckets`.
        tokens: the tokens of the items' texts, or none.
    """
    if tokens is None:
        return LaidOut(np.zeros_like(slots), slots, gaps, np.arange(len(slots)))
    length, prompt = tokens.length[slots], len(tokens.prompt)
    after = prompt + np.cumsum(1 + length)
    at = after - 1 - length
    token_ids, gap = np.zeros((2, int(after[-1])), np.int32)
    items = np.full(len(token_ids), -1, np.int32)
    items[at], gap[at] = slots, gaps
    token_ids[:prompt] = tokens.prompt
    # The tokens of item i are `ids[first[i]:]`; their positions begin at `at[i] + 1`.
    is_text = items < 0
    is_text[:prompt] = False
    shift = np.repeat(tokens.first[slots] - at - 1, length)
    token_ids[is_text] = tokens.ids[np.flatnonzero(is_text) + shift]
    return LaidOut(token_ids, items, gap, after - 1)


def _starts(length: np.ndarray) -> np.ndarray:
    return np.cumsum(length) - length
