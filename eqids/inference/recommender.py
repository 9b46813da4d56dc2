"""Recommendations from Python: `eqids.load("runs/mine").recommend(histories, k=10)`."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool

from eqids.config import require
from eqids.inference.allowed_items import allowed_items
from eqids.inference.answer_tables import AnswerTables
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.values import Query, SlotFilter
from eqids.inference.histories import (
    History as History,
    Unknown,
    read_histories,
)
from eqids.inference.id_lists import id_list
from eqids.inference.open import Opened
from eqids.inference.request_times import asked_now, with_request_times
from sharding import ONE_DEVICE, Placement

_ROWS = 64
"""Most histories that go through the model in one call."""
_CHUNK = 1024
"""Histories of one table of answers."""

Histories: TypeAlias = (
    pd.DataFrame
    | pa.Table
    | History
    | Iterable[Iterable[Any] | History | pd.DataFrame | pa.Table]
)
"""One table, one history, or a list of histories; see `Recommender.recommend`."""


class Recommender:
    """A trained model with its catalog, opened by `eqids.load`.

    Attributes:
        opened: the model, its run's config and its step.
        dataset: the catalog and the histories of its users.
    """

    def __init__(self, opened: Opened, put: Placement = ONE_DEVICE):
        """Makes a recommender of an open model.

        Args:
            opened: see `eqids.inference.open`.
            put: as for `ServedModel`.
        """
        self.opened = opened
        self.dataset = opened.dataset
        self._tables = AnswerTables(opened.dataset)
        self._served = ServedModel(
            opened, max_batch=_ROWS, max_k=self.dataset.num_slots, put=put
        )

    def recommend(
        self,
        histories: Histories,
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
        _check_k(k)
        messages: list[str] = []
        given, left_out = self._given(histories, unknown, request_times, messages)
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

    def score(
        self,
        histories: Histories,
        items: Iterable[Any],
        *,
        unknown: Unknown = "refuse",
        request_times: Any = None,
    ) -> pd.DataFrame:
        """Returns the log-probability of items as the next item of every history.

        It is exact: the sum of the probabilities of all items is 1. After an empty
        history it is the logarithm of the item's share of the training events.

        Args:
            histories: as for `recommend`.
            items: ids of the items, the same for all histories.
            unknown: as for `recommend`, for the items of histories.
            request_times: as for `recommend`.

        Returns:
            A DataFrame with the columns user, item, title and log_probability, -inf
            for a retired item.

        Raises:
            UserError: an item is unknown, or see `recommend`.
        """
        messages: list[str] = []
        given, _ = self._given(histories, unknown, request_times, messages)
        for message in messages:
            # At this depth the warning names the caller's line.
            warnings.warn(message.removeprefix("warning: "), stacklevel=2)
        slots = self.dataset.slot_of(id_list("items", items))
        found = self._served.log_probs(given, slots)
        return self._tables.scores(given, slots, found)

    def similar(self, items: Iterable[Any], k: int = 10) -> pd.DataFrame:
        """Returns the items whose vectors are most similar to those of given items.

        Args:
            items: ids.
            k: number of similar items for each.

        Returns:
            A DataFrame with the columns item, rank (from 1), similar_item, title (of
            the similar item) and similarity, the cosine of the two vectors.

        Raises:
            UserError: an item is unknown, or k is not a whole number of 1 or more.
        """
        _check_k(k)
        slots = self.dataset.slot_of(id_list("items", items))
        require(len(slots) > 0, "items is empty, wanted at least one item id")
        found, cosines = self._served.similar(slots, min(k, self.dataset.num_slots))
        return self._tables.similar(slots, found, cosines)

    def item_vectors(self) -> pd.DataFrame:
        """Returns the vector of every item, a row each, by item id.

        The softmax predicts items by these vectors. Retired items have one, too.
        """
        vectors = self._served.item_vectors().reshape(self.dataset.num_slots, -1)
        items = self._tables.items
        return pd.DataFrame(vectors[items.index], index=pd.Index(items, name="item"))

    def user_vectors(
        self,
        histories: Histories,
        *,
        unknown: Unknown = "refuse",
        request_times: Any = None,
    ) -> pd.DataFrame:
        """Returns the vector of every history, a row each, by user.

        The dot product with an item's vector, plus the item's bias, is the item's
        logit within its cluster: it orders the items of one cluster. It does not
        order items of different clusters, because P(item) = P(cluster) P(item |
        cluster); use `score` or `recommend` for these. With 1 after it, it is the query
        of the augmented vectors that `convert items` writes.

        Args:
            histories: as for `recommend`; an empty one has a vector of zeros.
            unknown: as for `recommend`.
            request_times: as for `recommend`.

        Raises:
            UserError: see `recommend`.
        """
        messages: list[str] = []
        given, _ = self._given(histories, unknown, request_times, messages)
        for message in messages:
            # At this depth the warning names the caller's line.
            warnings.warn(message.removeprefix("warning: "), stacklevel=2)
        index = pd.Index([history.user for history in given], name="user")
        return pd.DataFrame(self._served.query_vectors(given), index=index)

    def warmup(
        self, k: int = 10, report: Callable[[int, int], None] | None = None
    ) -> None:
        """Compiles all programs, so that no later call waits for that.

        Without it, calls compile what they need: a few sizes of histories, of batches
        and of k.

        Args:
            k: the largest k of later calls.
            report: receives how many programs are compiled, and how many there are.

        Raises:
            UserError: k is not a whole number of 1 or more.
        """
        _check_k(k)
        self._served.compile(report, max_k=min(k, self.dataset.num_slots))

    def _given(
        self,
        histories: Any,
        unknown: Any,
        request_times: Any,
        messages: list[str],
    ) -> tuple[list[History], int]:
        """Returns histories with request times, and how many events were left out."""
        require(
            unknown in ("refuse", "skip"),
            f"unknown is {unknown!r}, wanted 'refuse' or 'skip'",
        )
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
        return given, left_out

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
        for first in range(0, len(histories), _CHUNK):
            chunk = histories[first : first + _CHUNK]
            queries = [Query(one, k, filter_seen, only) for one in chunk]
            yield self._tables.recommendations(chunk, self._served.answer(queries))


def _check_k(k: Any) -> None:
    require(
        isinstance(k, int | np.integer) and bool(k >= 1),
        f"k is {k!r}, wanted a whole number of 1 or more",
    )
