"""What items and users are called on a page."""

from typing import Any

from eqids.data import Dataset

LONGEST = 80
"""Characters of a title; the rest is cut off."""


class ItemTitles:
    """Titles of items by slot, or their ids where they have none."""

    def __init__(self, dataset: Dataset):
        """Reads the items of a dataset."""
        items = dataset.items()
        self._titles = dict(zip(items["slot"], items["title"], strict=True))
        self._ids = dict(zip(items["slot"], items["item"], strict=True))

    def of(self, slot: int) -> str:
        """Returns the title of an item, at most `LONGEST` characters."""
        title = self._titles.get(slot)
        text = str(title) if isinstance(title, str) and title.strip() else ""
        text = text or str(self.id_of(slot))
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

    def id_of(self, slot: int) -> Any:
        """Returns the id of an item as the user's data has it."""
        return self._ids.get(slot, "?")
