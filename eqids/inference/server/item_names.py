"""The ids and titles of a catalog as JSON has them, and items by words of titles."""

import bisect
import itertools
import math
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from eqids.data import Dataset

Id = int | float | str

_SPARSEST = 16
"""A table of slots by number has at most so many numbers for each item."""


class ItemNames:
    """Answers in plain Python what a request needs of the catalog; immutable."""

    def __init__(self, dataset: Dataset):
        """Reads the items.

        Args:
            dataset: holds the catalog.
        """
        self._dataset = dataset
        items = dataset.items().sort_values("slot")
        slots = items["slot"].to_numpy()
        self._ids: list[Id] = [""] * dataset.num_slots
        self._titles = [""] * dataset.num_slots
        rows = zip(slots.tolist(), items["item"], items["title"], strict=True)
        for slot, item, title in rows:
            self._ids[slot] = json_id(item)
            self._titles[slot] = title if isinstance(title, str) else ""
        self._slots = {self._ids[slot]: slot for slot in slots.tolist()}
        self._first, self._table = _table(self._slots)
        self._counts = dataset.item_counts.reshape(-1)
        self._valid = dataset.item_valid.reshape(-1)
        # Most popular first, so that a search finds these first.
        order = slots[np.argsort(-self._counts[slots], kind="stable")]
        self._searched = order[self._valid[order]].tolist()
        folded = [folded_text(self._titles[slot]) for slot in self._searched]
        self._starts = np.cumsum([0, *(len(text) + 1 for text in folded)]).tolist()
        self._text = "\n".join(folded)
        # The first look-up of another spelling would read the file.
        dataset.find_items([])

    def __len__(self) -> int:
        """Returns the number of items that may be recommended."""
        return len(self._searched)

    def find(self, ids: Sequence[Id]) -> Int32[np.ndarray, " n"]:
        """Returns the slots of ids of any spelling, -1 for those of no item."""
        found = self._numbered(ids)
        if found is None:
            slots = list(map(self._slots.get, ids, itertools.repeat(-1)))
            found = np.array(slots, np.int32)
        others = np.flatnonzero(found < 0)
        if len(others):
            found[others] = self._dataset.find_items(
                [ids[at] for at in others.tolist()]
            )
        return found

    def _numbered(self, ids: Sequence[Any]) -> Int32[np.ndarray, " n"] | None:
        """Returns the slots of integers by a table, which takes a tenth of the time."""
        if not len(self._table):
            return None
        try:
            numbers = np.frombuffer(array("q", ids), np.int64)
        except (TypeError, OverflowError):  # a text, or a number of more bits
            return None
        last = self._first + len(self._table) - 1
        inside = (numbers >= self._first) & (numbers <= last)
        at = np.where(inside, numbers, self._first) - self._first
        return np.where(inside, self._table[at], np.int32(-1))

    def item(self, slot: int) -> Id:
        """Returns the id of a slot's item."""
        return self._ids[slot]

    def title(self, slot: int) -> str:
        """Returns the title of a slot's item, which may be empty."""
        return self._titles[slot]

    def count(self, slot: int) -> int:
        """Returns the number of training events of a slot's item."""
        return int(self._counts[slot])

    def search(self, text: str, most: int) -> Int[np.ndarray, " n"]:
        """Returns the slots of items whose titles hold all words, most popular first.

        Case and accents are ignored, and a word may be a part of one in the title.
        Retired items are left out.

        Args:
            text: words, or nothing for all items.
            most: most items to return.
        """
        words = sorted(folded_text(text).split(), key=len, reverse=True)
        if not words:
            return np.array(self._searched[:most], np.int64)
        found: list[int] = []
        at = self._text.find(words[0])
        while at >= 0 and len(found) < most:
            row = bisect.bisect_right(self._starts, at) - 1
            title = self._text[self._starts[row] : self._starts[row + 1]]
            if all(word in title for word in words[1:]):
                found.append(self._searched[row])
            at = self._text.find(words[0], self._starts[row + 1])
        return np.array(found, np.int64)


def _table(slots: Mapping[Id, int]) -> tuple[int, Int32[np.ndarray, " number"]]:
    """Returns the least id and the slots of all numbers from it on, -1 for no item;
    the table is empty if ids are not integers, or too far apart."""
    none = 0, np.zeros(0, np.int32)
    numbers = [one for one in slots if isinstance(one, int)]
    if not numbers or len(numbers) < len(slots):
        return none
    first, number = min(numbers), max(numbers) - min(numbers) + 1
    if not -(2**62) < first < 2**62 or number > _SPARSEST * len(slots):
        return none
    table = np.full(number, -1, np.int32)
    table[np.array(numbers) - first] = list(slots.values())
    return first, table


def json_id(value: Any) -> Id:
    """Returns an id of a catalog as JSON has it: integer, number or text."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str) or isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


def folded_text(text: str) -> str:
    """Returns a text on one line, without case and accents, for comparison."""
    text = " ".join(text.casefold().split())
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text)
    return "".join(one for one in parts if not unicodedata.combining(one))
