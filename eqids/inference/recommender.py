"""Recommendations from Python: `eqids.load("runs/mine").recommend(histories, k=10)`."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool

from convert.hf_eqids import is_pair
from eqids.config import OpenConfig, require
from eqids.inference.allowed_items import allowed_items
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query, Recommendations, SlotFilter
from eqids.inference.histories import (
    History as History,
    Unknown,
    read_histories,
)
from eqids.inference.open import Opened, open_model
from eqids.inference.request_times import asked_now, with_request_times
from sharding import placement

_ROWS = 64
"""Most histories that go through the model in one call."""


class Recommender:
    """A trained model with its catalog, opened by `eqids.load`.

    Attributes:
        opened: the model, its run's config and its step.
        dataset: the catalog and the histories of its users.
    """

    def __init__(self, opened: Opened):
        """Makes a recommender of an open model.

        Args:
            opened: see `eqids.inference.open`.
        """
        self.opened = opened
        self.dataset = opened.dataset
        items = opened.dataset.items().set_index("slot")
        self._items, self._titles = items["item"], items["title"]
        self._served = ServedModel(
            opened, max_batch=_ROWS, max_k=self.dataset.num_slots
        )

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
        request_times: Any = None,
    ) -> pd.DataFrame:
        """Returns the k most probable next items of every history, exactly.

        Popularity answers an empty history: the items with most training events, each
        with its share of these events as its probability.

            recommender = eqids.load("runs/ml-100k-nano-all-seed0")
            recommender.recommend([[50, 181], [172]], k=5)

        Args:
            histories: a list of histories, each a list of item ids, oldest first, a
                `History` (see `of_user`) or a DataFrame; or one DataFrame with the
                columns user, item and optionally time (unix seconds, timestamps or
                texts of these). A pyarrow table is read like a DataFrame.
            k: the number of items.
            filter_seen: do not recommend items of the history.
            allow: ids of the only items to recommend, by default all. Ids that the
                catalog does not hold are left out with a warning.
            deny: ids of items never to recommend. Ids that the catalog does not hold
                are left out.
            unknown: what to do with items of a history that the catalog does not hold:
                "refuse" raises an error, "skip" leaves them out.
            request_times: when the next items are requested, if the model was trained
                with `--request_time`: one time for all histories, or a list with one
                for each (unix seconds, timestamps or texts of these); or "last", the
                time of each history's last event. By default the column request_time
                of a DataFrame, or else now.

        Returns:
            A DataFrame with the columns user (for lists, their index), rank (from 1),
            item, title and probability; fewer than k rows for a user if fewer items
            may be recommended. `attrs["unknown"]` says how many events of "histories"
            and how many ids of "allow" and "deny" were left out;
            `attrs["popularity"]` lists the users whom popularity answered.

        Raises:
            UserError: an item is unknown, there are no histories, a column is missing,
                an argument is not a list of ids, `allow` leaves no item to recommend,
                k is not a whole number of 1 or more, or request times are invalid or
                the model does not read them.
        """
        require(
            isinstance(k, int | np.integer) and k >= 1,
            f"k is {k!r}, wanted a whole number of 1 or more",
        )
        require(
            unknown in ("refuse", "skip"),
            f"unknown is {unknown!r}, wanted 'refuse' or 'skip'",
        )
        messages: list[str] = []
        given, left_out = read_histories(
            self.dataset,
            histories,
            unknown,
            messages.append,
            request_time=self.reads_request_time,
        )
        if request_times is not None:
            given = self.asked_at(
                given, request_times, "request_times", messages.append
            )
        allowed = allowed_items(self.dataset, allow, deny, messages.append)
        for message in messages:
            # At this depth the warning names the caller's line.
            warnings.warn(message.removeprefix("warning: "), stacklevel=2)
        places = allowed.places
        parts = self.search(given, int(k), filter_seen=filter_seen, allowed=places)
        found = pd.concat(list(parts), ignore_index=True)
        popular = [history.user for history in given if not len(history.slots)]
        counts = {"histories": left_out, **allowed.unknown}
        found.attrs = {"unknown": counts, "popularity": popular}
        return found

    def of_user(self, user: Hashable) -> History:
        """Returns a user's history in the dataset, for `recommend`.

            recommender.recommend([recommender.of_user(1)])

        Args:
            user: the id, as in the dataset's source.

        Raises:
            UserError: the dataset has no such user.
        """
        row = self.dataset.user_index(user)
        span = slice(self.dataset.offsets[row], self.dataset.offsets[row + 1])
        times = None if self.dataset.times is None else self.dataset.times[span]
        return History(user, self.dataset.slots[span], times)

    @property
    def reads_request_time(self) -> bool:
        """Whether the model knows when the next item is requested."""
        return self.opened.model.config.request_time

    def asked_at(
        self,
        histories: Sequence[History],
        times: Any,
        name: str,
        report: Callable[[str], None],
    ) -> list[History]:
        """Returns histories with request times; see `with_request_times`.

        Raises:
            UserError: the model does not read them, or they are invalid.
        """
        require(
            self.reads_request_time,
            f"{name} is given, and {self.opened.path} was trained without "
            f"--request_time; wanted no {name}",
        )
        return with_request_times(histories, times, name, self.dataset, report)

    def search(
        self,
        histories: Sequence[History],
        k: int,
        *,
        filter_seen: bool,
        allowed: Bool[np.ndarray, "cluster place"] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yields the recommendations of histories, chunk by chunk; see `recommend`.

        Args:
            histories: from `read_histories`, `of_user` or `asked_at`; those without a
                request time are requested now.
            k: the number of items.
            filter_seen: do not recommend items of the history.
            allowed: places that may be recommended (see `allowed_items`), by default
                those of all items that are not retired.
        """
        only = None if allowed is None else SlotFilter(allowed)
        if self.reads_request_time:
            histories = asked_now(histories)
        k = min(k, self.dataset.num_slots)
        for first in range(0, len(histories), _ROWS):
            chunk = histories[first : first + _ROWS]
            queries = [Query(one, k, filter_seen, only) for one in chunk]
            yield self._named(chunk, self._served.answer(queries))

    def _named(
        self, chunk: Sequence[History], answers: Sequence[Recommendations]
    ) -> pd.DataFrame:
        """Returns the rows of a table of recommendations."""
        lengths = [len(one.slots) for one in answers]
        slots = np.concatenate([one.slots for one in answers])
        users = pd.Series([history.user for history in chunk], dtype=object)
        return pd.DataFrame(
            {
                "user": users.repeat(lengths).infer_objects().to_numpy(),
                "rank": np.concatenate([np.arange(1, n + 1) for n in lengths]),
                "item": self._items.loc[slots].to_numpy(),
                "title": self._titles.loc[slots].to_numpy(),
                "probability": np.concatenate([one.probabilities for one in answers]),
            }
        )


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
) -> Recommender:
    """Opens a trained model for recommendations; see `eqids.load`."""
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
