"""Metrics of recommended lists, by the definitions of RecTools 0.19.

RecTools takes previous interactions; here these are the training events. A user has one
relevant item, the target. `docs/evaluation.md` has the formulas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64

from eqids.data import Dataset

ListMetric = str
"""A name in `LIST_METRICS`."""

_USERS = 2_048
"""Users whose lists are compared item by item at a time."""


@dataclass(frozen=True, eq=False)
class CatalogFacts:
    """What metrics of lists know about the items.

    Attributes:
        num_items: items that may be recommended.
        num_users: users with a training event.
        events: int64 [slot], training events of each item.
        users: int64 [slot], users who have one.
        directions: float32 [slot, vector_width], vectors of length 1 by which items are
            compared; zeros for items without one.
    """

    num_items: int
    num_users: int
    events: Int64[np.ndarray, " slot"]
    users: Int64[np.ndarray, " slot"]
    directions: Float32[np.ndarray, "slot vector_width"]

    @staticmethod
    def of(dataset: Dataset) -> "CatalogFacts":
        """Counts the training events of a dataset, and takes its item vectors."""
        length = np.diff(dataset.offsets)
        user = np.repeat(np.arange(dataset.num_users), length)
        position = np.arange(len(user)) - np.repeat(dataset.offsets[:-1], length)
        training = position < np.repeat(dataset.train_length, length)
        pair = user[training] * np.int64(dataset.num_slots) + dataset.slots[training]
        users = np.bincount(
            np.unique(pair) % dataset.num_slots, minlength=dataset.num_slots
        )
        vectors = dataset.item_vectors.reshape(dataset.num_slots, -1)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return CatalogFacts(
            num_items=int(np.count_nonzero(dataset.item_valid)),
            num_users=int(np.count_nonzero(dataset.train_length)),
            events=dataset.item_counts.reshape(-1).astype(np.int64),
            users=users.astype(np.int64),
            directions=(vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32),
        )

    def novelty(self) -> Float64[np.ndarray, " slot"]:
        """Returns the self-information of each item, -log2 of its share of users.

        An item without a training event counts as one that a single user has used.
        """
        return -np.log2(np.maximum(self.users, 1) / max(self.num_users, 1))

    def popularity_probability(self) -> Float64[np.ndarray, " slot"]:
        """Returns (items + 1 - rank) / items of each item's popularity rank.

        Items of equal popularity share a rank, and the next gets the next number. It is
        0 for items without a training event.
        """
        counts = np.unique(self.events[self.events > 0])[::-1]
        rank = 1 + np.searchsorted(-counts, -self.events)
        return np.where(self.events > 0, _share(self.num_items, rank), 0.0)


def list_metrics(
    slots: Int32[np.ndarray, "user k"],
    target: Int[np.ndarray, " user"],
    facts: CatalogFacts,
    names: Sequence[ListMetric],
    cutoffs: Sequence[int],
) -> dict[str, float]:
    """Returns metrics of lists, as means over users or of all lists together.

    Args:
        slots: the lists, padded with -1.
        target: each user's target.
        facts: about the items.
        names: of `LIST_METRICS`.
        cutoffs: the Ks, no larger than the lists.
    """
    found = {}
    for k in cutoffs:
        top = slots[:, :k]
        for name in names:
            if name in OVER_USERS:
                values = user_list_metric(name, top, target, facts, k)
                found[f"{name}@{k}"] = _mean(values)
        exposure = np.bincount(top[top >= 0], minlength=len(facts.events))
        if "coverage" in names:
            share = np.count_nonzero(exposure) / facts.num_items
            found[f"coverage@{k}"] = float(share)
        if "gini" in names:
            found[f"gini@{k}"] = gini(exposure, facts.num_items)
    return found


def user_list_metric(
    name: ListMetric,
    top: Int32[np.ndarray, "user k"],
    target: Int[np.ndarray, " user"],
    facts: CatalogFacts,
    k: int,
) -> Float64[np.ndarray, " user"]:
    """Returns one of `OVER_USERS` for each user.

    Args:
        name: the metric.
        top: lists of k items, padded with -1.
        target: each user's target.
        facts: about the items.
        k: the cutoff.

    Returns:
        NaN for a user without a list, where the metric is a mean over the list.
    """
    hits, listed = top == target[:, None], top >= 0
    if name == "hit_rate":
        return hits.any(axis=1).astype(np.float64)
    if name == "precision":
        return hits.sum(axis=1) / k
    if name == "map":
        # One relevant item: the precision at its place.
        return (hits / np.arange(1, top.shape[1] + 1)).sum(axis=1)
    if name == "novelty":
        return _list_mean(facts.novelty()[top], listed)
    if name == "popularity":
        return _list_mean(facts.events[top].astype(np.float64), listed)
    if name == "serendipity":
        own = _share(facts.num_items, np.arange(1, top.shape[1] + 1))
        surprise = np.maximum(own - facts.popularity_probability()[top], 0.0)
        return _list_mean(surprise * hits, listed)
    assert name == "diversity", name
    return _diversity(top, listed, facts.directions)


OVER_USERS = ("hit_rate", "precision", "map", "novelty", "popularity", "diversity",
              "serendipity")  # fmt: skip
"""Metrics that are means over users."""
OVER_LISTS = ("coverage", "gini")
"""Metrics of all lists together."""
LIST_METRICS: Mapping[ListMetric, str] = {
    "hit_rate": "share of users whose list has the target",
    "precision": "share of the K recommended items that are targets",
    "map": "mean average precision; with one target a user it equals MRR",
    "coverage": "share of the catalog that is in any list",
    "gini": "inequality of how often items are recommended: 0 all equally, 1 one item",
    "novelty": "bits of self-information of the recommended items, from their users",
    "popularity": "training events of the recommended items, on average",
    "diversity": "mean cosine distance of a list's items, by the dataset's vectors",
    "serendipity": "hits that popularity would have ranked lower",
}
"""What each metric is, in a few words."""


def gini(exposure: Int[np.ndarray, " slot"], num_items: int) -> float:
    """Returns the Gini coefficient of how often items are recommended.

    Args:
        exposure: how often each slot is recommended.
        num_items: items of the catalog, those that are never recommended included.
    """
    counts = np.sort(exposure[exposure > 0]).astype(np.float64)
    if not len(counts):
        return 0.0
    # Items that are never recommended come first and add nothing to the sum.
    place = np.arange(num_items - len(counts) + 1, num_items + 1)
    return float((2 * place - num_items - 1) @ counts / (num_items * counts.sum()))


def _share(num_items: int, rank: Int[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    return (num_items + 1 - rank) / num_items


def _list_mean(
    values: Float[np.ndarray, "user k"], listed: Bool[np.ndarray, "user k"]
) -> Float64[np.ndarray, " user"]:
    """The mean over each list's items; NaN for an empty list."""
    length = listed.sum(axis=1)
    total = np.where(listed, values, 0.0).sum(axis=1)
    return np.where(length > 0, total / np.maximum(length, 1), np.nan)


def _diversity(
    top: Int32[np.ndarray, "user k"],
    listed: Bool[np.ndarray, "user k"],
    directions: Float32[np.ndarray, "slot vector_width"],
) -> Float64[np.ndarray, " user"]:
    """The mean of 1 - cosine over pairs of a list; 0 for a list of one item.

    The sum over pairs follows from the length of the sum of the list's directions.
    """
    found = np.empty(len(top))
    for start in range(0, len(top), _USERS):
        part = slice(start, start + _USERS)
        vectors = directions[top[part]] * listed[part, :, None]
        total = np.square(vectors.sum(axis=1, dtype=np.float64)).sum(axis=1)
        own = np.square(vectors, dtype=np.float64).sum(axis=(1, 2))
        pairs = listed[part].sum(axis=1) * (listed[part].sum(axis=1) - 1.0)
        cosine = (total - own) / np.maximum(pairs, 1.0)
        found[part] = np.where(pairs > 0, 1.0 - cosine, 0.0)
    return np.where(listed.any(axis=1), found, np.nan)


def _mean(values: Float64[np.ndarray, " user"]) -> float:
    """The mean over users that have a list; NaN where none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
