"""The baselines by name, and the ranks and metrics of each."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Float32

from eqids.cli import Counted, waiting
from eqids.data import Dataset
from eqids.fit.baselines import Scorer, markov, popularity
from eqids.fit.ease import ease
from eqids.fit.evaluation import MOST_USERS, Chunk, Split, chunks, targets_of
from eqids.fit.item_knn import item_knn
from eqids.fit.rank_cache import ranks_key, read_ranks, write_ranks
from eqids.fit.ranking import metrics, ranks_of_scores

MOST_ITEMS = 30_000
"""Most items of baselines that compare every item with every other: the matrix of EASE
has 3.6 GB then, and its inverse takes 2.7e13 floating-point operations."""

MOST_PAIRS = 2**34
"""Most pairs of items that these baselines count, over all users."""

_SCORES = 2**25
"""Scores in memory at a time (128 MiB): with a large catalog, a chunk has fewer
users."""


@dataclass(frozen=True)
class Baseline:
    """A recommender that counts.

    Attributes:
        label: its name in tables.
        scorer: makes it from the training events of a dataset.
        pairwise: whether it compares every item with every other, so that the size of
            the dataset is limited.
    """

    label: str
    scorer: Callable[[Dataset], Scorer]
    pairwise: bool = False


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline("popularity", popularity),
    "markov": Baseline("Markov", markov),
    "item_knn": Baseline("ItemKNN", item_knn, pairwise=True),
    "ease": Baseline("EASE", ease, pairwise=True),
}
"""All baselines, by their names in results."""


def why_left_out(name: str, dataset: Dataset) -> str | None:
    """Returns why a dataset is too large for a baseline, or None if it is not.

    Args:
        name: the baseline's, of `BASELINES`.
        dataset: the dataset.
    """
    if not BASELINES[name].pairwise:
        return None
    num_items = np.count_nonzero(dataset.item_counts)
    if num_items > MOST_ITEMS:
        return f"{num_items:,} items have training events, more than {MOST_ITEMS:,}"
    length = np.minimum(dataset.train_length, num_items).astype(np.float64)
    pairs = float(np.square(length).sum())
    if pairs > MOST_PAIRS:
        return f"the users have {pairs:.1e} pairs of items, more than {MOST_PAIRS:.1e}"
    return None


def baseline_ranks(
    name: str,
    wanted: Sequence[tuple[Dataset, Split]],
    report: Callable[[str], None] = lambda text: None,
) -> list[Float32[np.ndarray, "user 2"]]:
    """Returns the ranks of a baseline, from the cache or computed now and kept.

    Args:
        name: the baseline's, of `BASELINES`, for which `why_left_out` gives no reason.
        wanted: the splits to rank, of one dataset, but perhaps with the targets of
            other users: see `of_some_users`. The baseline is made once for all of them.
        report: receives a message before a computation that may take minutes.

    Returns:
        For each split, the ranks as `ranks_of_scores` returns them. Users are those of
        `targets_of`, in its order.
    """
    baseline = BASELINES[name]

    @functools.cache
    def scorer() -> Scorer:
        what = f"computing the baseline {baseline.label}"
        if baseline.pairwise:
            report(f"{what}, once for this dataset")
            return baseline.scorer(wanted[0][0])
        with waiting(what):
            return baseline.scorer(wanted[0][0])

    found = []
    for dataset, split in wanted:
        key = ranks_key(name, dataset, split)
        ranks = read_ranks(key)
        if ranks is None:
            ranks = ranks_by(scorer(), dataset, split, f"ranking by {baseline.label}")
            write_ranks(key, ranks)
        found.append(ranks)
    return found


def ranks_by(
    scorer: Scorer, dataset: Dataset, split: Split, what: str = "ranking"
) -> Float32[np.ndarray, "user 2"]:
    """Returns the ranks of a split's targets by a baseline's scores.

    Args:
        scorer: the baseline.
        dataset: the dataset with the histories and the targets.
        split: `valid` or `test`; at test the history includes the validation item.
        what: what happens, for messages.
    """
    rank = jax.jit(ranks_of_scores)

    def ranked(chunk: Chunk) -> np.ndarray:
        found = rank(scorer(chunk), chunk.target, chunk.seen, chunk.seen_by)
        return np.asarray(found)[: chunk.num_users]

    most = min(MOST_USERS, max(1, _SCORES // dataset.num_slots))
    parts, (users, _) = list[np.ndarray](), targets_of(dataset, split)
    with Counted(what, len(users), "users") as counted:
        for chunk in chunks(dataset, split, most=most):
            parts.append(ranked(chunk))
            counted.update(chunk.num_users)
    return np.concatenate(parts)


def baseline_metrics(
    ranks: Float[np.ndarray, "user 2"],
) -> dict[str, Mapping[str, float]]:
    """Returns the metrics of ranks, with seen items filtered and kept.

    Args:
        ranks: filtered and unfiltered, see `ranks_of_scores`.
    """
    both = ranks.astype(np.float64)
    return {"filtered": metrics(both[:, 0]), "unfiltered": metrics(both[:, 1])}
