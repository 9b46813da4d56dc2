"""Recommendations from Python: `eqids.load("runs/…").recommend(histories, k=10)`."""

import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from convert.hf_eqids import is_pair
from eqids.config import OpenConfig, require
from eqids.data.ids import shown
from eqids.inference.histories import (
    History as History,
    Report,
    Unknown,
    read_histories,
)
from eqids.inference.id_lists import id_list
from eqids.inference.model_search import ModelSearch
from eqids.inference.open import Opened, open_model
from sharding import placement

_ROWS = 64
"""Histories that are asked together at most."""


class Recommender:
    """A trained model with its catalog."""

    def __init__(self, opened: Opened):
        """Holds a model; `load` opens one by its path."""
        self.opened = opened
        self.dataset = opened.dataset
        items = opened.dataset.items().set_index("slot")
        self._items, self._titles = items["item"], items["title"]
        self._search = ModelSearch(opened)

    def recommend(
        self,
        histories: pd.DataFrame
        | pa.Table
        | History
        | Iterable[Iterable[Any] | History | pd.DataFrame | pa.Table],
        k: int = 10,
        *,
        filter_seen: bool = True,
        allow: Iterable[Any] | None = None,
        deny: Iterable[Any] | None = None,
        unknown: Unknown = "refuse",
    ) -> pd.DataFrame:
        """Returns the k most probable next items of every history, exactly.

        An empty history is answered by popularity: the items with most training
        events, and as their probability their share of the events. Items that the
        catalog does not hold are left out of `deny`, and out of `allow` with a
        warning.

        Args:
            histories: a list of histories, each a list of item ids, oldest first, a
                `History` (see `of_user`) or a DataFrame; or one DataFrame with the
                columns user, item and, if known, time (unix seconds, timestamps or
                texts of these). A table of pyarrow is taken like a DataFrame.
            k: how many items.
            filter_seen: leave out items of the history.
            allow: a list of ids, the only items to recommend, by default all.
            deny: a list of ids, items never to recommend.
            unknown: what becomes of items of a history that the catalog does not
                hold: "refuse" is an error, "skip" leaves them out.

        Returns:
            A DataFrame with the columns user (the list's index, for lists), rank
            (from 1), item, title and probability; fewer than k rows a user where no
            more items may be recommended. Its `attrs` say what was not as usual:
            `attrs["unknown"]`, how many events of "histories" and how many ids of
            "allow" and "deny" were left out, and `attrs["popularity"]`, the users
            who were answered by popularity.

        Raises:
            UserError: an unknown item, no histories, a missing column, ids where
                lists of ids are wanted, an `allow` of which nothing can be
                recommended, or a k that is no whole number from 1.
        """
        require(
            isinstance(k, int | np.integer) and k >= 1,
            f"k is {k!r}, wanted a whole number of 1 or more",
        )
        require(
            unknown in ("refuse", "skip"),
            f"unknown is {unknown!r}, wanted 'refuse' or 'skip'",
        )
        said: list[str] = []
        asked, left_out = read_histories(self.dataset, histories, unknown, said.append)
        counts = {"histories": left_out}
        allowed = self.allowed(allow, deny, counts, said.append)
        for message in said:
            # From here the caller's line is named.
            warnings.warn(message.removeprefix("warning: "), stacklevel=2)
        parts = self.search(asked, int(k), filter_seen=filter_seen, allowed=allowed)
        found = pd.concat(list(parts), ignore_index=True)
        popular = [history.user for history in asked if not len(history.slots)]
        found.attrs = {"unknown": counts, "popularity": popular}
        return found

    def of_user(self, user: Hashable) -> History:
        """Returns all that the dataset knows of a user."""
        row = self.dataset.user_index(user)
        span = slice(self.dataset.offsets[row], self.dataset.offsets[row + 1])
        times = None if self.dataset.times is None else self.dataset.times[span]
        return History(user, self.dataset.slots[span], times)

    def search(
        self,
        histories: Sequence[History],
        k: int,
        *,
        filter_seen: bool,
        allowed: Bool[np.ndarray, "cluster place"],
    ) -> Iterator[pd.DataFrame]:
        """Yields the recommendations of one chunk of histories after the other."""
        k = min(k, self.dataset.num_slots)
        popular = None
        for chunk in self._search.chunks(histories, filter_seen, _ROWS):
            slots = np.full((len(chunk.histories), k), -1)
            chance = np.zeros(slots.shape, np.float32)
            known = np.array([len(one.slots) > 0 for one in chunk.histories])
            if known.any():
                slots[known], chance[known] = self._search(chunk, k, allowed)
            if not known.all():
                popular = popular or self._popular(k, allowed)
                slots[~known], chance[~known] = popular
            yield self._named(chunk.histories, slots, chance)

    def _popular(
        self, k: int, allowed: Bool[np.ndarray, "cluster place"]
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """The slots with most training events and their share of these; -1: no more."""
        counts = np.where(self.dataset.item_valid, self.dataset.item_counts, 0)
        shares = counts.reshape(-1) / max(1, int(counts.sum()))
        slots = np.flatnonzero(allowed)
        slots = slots[np.argsort(-shares[slots], kind="stable")][:k]
        padding = (0, k - len(slots))
        shares = np.pad(shares[slots], padding).astype(np.float32)
        return np.pad(slots, padding, constant_values=-1), shares

    def _named(
        self, chunk: Sequence[History], slots: np.ndarray, chance: np.ndarray
    ) -> pd.DataFrame:
        """Turns slots to ids and titles, and drops places that nothing fills."""
        row, rank = np.nonzero(slots >= 0)
        found = slots[row, rank]
        users = pd.Series([history.user for history in chunk], dtype=object)
        return pd.DataFrame(
            {
                "user": users.iloc[row].infer_objects().to_numpy(),
                "rank": rank + 1,
                "item": self._items.loc[found].to_numpy(),
                "title": self._titles.loc[found].to_numpy(),
                "probability": chance[row, rank],
            }
        )

    def allowed(
        self,
        allow: Any = None,
        deny: Any = None,
        unknown: dict[str, int] | None = None,
        report: Report | None = None,
    ) -> Bool[np.ndarray, "cluster place"]:
        """Returns the places that may be recommended; see `recommend`.

        Args:
            allow: the only items, by default all.
            deny: items that are none of them.
            unknown: where to write how many ids of each the catalog does not hold.
            report: receives a warning of ids in `allow` that the catalog lacks.

        Raises:
            UserError: one is no list of ids, or nothing may be recommended.
        """
        valid, counts = self.dataset.item_valid, {} if unknown is None else unknown
        allowed = valid.copy()
        if allow is not None:
            ids = id_list("allow", allow)
            slots = self.dataset.find_items(ids)
            counts["allow"] = int((slots < 0).sum())
            if counts["allow"] and report is not None:
                report(
                    f"{counts['allow']:,} of {len(slots):,} ids in allow are not in "
                    f"the catalog of {self.dataset.path}, the first is "
                    f"{shown(ids[int((slots < 0).argmax())])}"
                )
            allowed[:] = False
            allowed.flat[slots[slots >= 0]] = True
            allowed &= valid
            require(
                bool(allowed.any()),
                f"allow names no item that {self.dataset.path} can recommend, wanted "
                "at least one that its catalog holds and that is not retired",
            )
        if deny is not None:
            slots = self.dataset.find_items(id_list("deny", deny))
            counts["deny"] = int((slots < 0).sum())
            allowed.flat[slots[slots >= 0]] = False
        return allowed


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
) -> Recommender:
    """Opens a run, one of its checkpoints or what was made of one for recommending.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step; or a folder
            that `eqids-to-hf` wrote.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the folder of the frozen Llama, by default the one of the run.
        tokenizer: the tokenizer.json of a run with words, by default the one of the
            run.

    Raises:
        UserError: see `eqids.inference.open.open_model`.
    """
    path = Path(checkpoint)
    data, llama, tokens = (
        None if p is None else Path(p) for p in (data_dir, llama_path, tokenizer)
    )
    pair = is_pair(path)
    config = OpenConfig(
        checkpoint=None if pair else path,
        init_from=path if pair else None,
        data_dir=data,
        llama_path=llama,
        tokenizer=tokens,
    )
    return Recommender(open_model(config, placement("none")))
