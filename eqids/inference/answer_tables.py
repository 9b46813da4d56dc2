"""Tables of what a model answers, with the users' own ids and titles."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int

from eqids.data import Dataset
from eqids.inference.engine.values import Recommendations
from eqids.inference.histories import History


class AnswerTables:
    """Makes tables of a dataset's items.

    Attributes:
        items: ids by slot.
        titles: by slot.
    """

    items: pd.Series
    titles: pd.Series

    def __init__(self, dataset: Dataset):
        """Reads the items of a dataset."""
        items = dataset.items().set_index("slot")
        self.items, self.titles = items["item"], items["title"]
        # An index finds a slot's row in ten times the time of an array.
        self._ids, self._titles = self.items.array, self.titles.array
        self._rows = np.zeros(dataset.num_slots, np.int64)
        self._rows[items.index] = np.arange(len(items))

    def recommendations(
        self, histories: Sequence[History], answers: Sequence[Recommendations]
    ) -> pd.DataFrame:
        """Returns the columns user, rank, item, title and probability."""
        lengths = [len(one.slots) for one in answers]
        rows = self._rows[np.concatenate([one.slots for one in answers])]
        return pd.DataFrame(
            {
                "user": _users(histories, lengths),
                "rank": np.concatenate([np.arange(1, n + 1) for n in lengths]),
                "item": self._ids[rows],
                "title": self._titles[rows],
                "probability": np.concatenate([one.probabilities for one in answers]),
            }
        )

    def scores(
        self,
        histories: Sequence[History],
        slots: Int[np.ndarray, " n"],
        log_probs: Float32[np.ndarray, "history n"],
    ) -> pd.DataFrame:
        """Returns the columns user, item, title and log_probability."""
        number = len(histories)
        return pd.DataFrame(
            {
                "user": _users(histories, [len(slots)] * number),
                "item": np.tile(self.items.loc[slots].to_numpy(), number),
                "title": np.tile(self.titles.loc[slots].to_numpy(), number),
                "log_probability": log_probs.reshape(-1),
            }
        )

    def similar(
        self,
        slots: Int[np.ndarray, " n"],
        found: Int[np.ndarray, "n k"],
        cosines: Float32[np.ndarray, "n k"],
    ) -> pd.DataFrame:
        """Returns the columns item, rank, similar_item, title and similarity."""
        row, rank = np.nonzero(found >= 0)
        near = found[row, rank]
        return pd.DataFrame(
            {
                "item": self.items.loc[slots[row]].to_numpy(),
                "rank": rank + 1,
                "similar_item": self.items.loc[near].to_numpy(),
                "title": self.titles.loc[near].to_numpy(),
                "similarity": cosines[row, rank],
            }
        )


def _users(histories: Sequence[History], repeats: list[int]) -> np.ndarray:
    """Returns each history's user, repeated."""
    pairs = [(h.user, n) for h, n in zip(histories, repeats, strict=True) if n]
    users = pd.Series([user for user, _ in pairs], dtype=object).infer_objects()
    return np.repeat(users.to_numpy(), [number for _, number in pairs])
