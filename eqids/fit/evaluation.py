"""Evaluation on the full catalog, in chunks of users."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.config import require
from eqids.data import Dataset
from eqids.data.batches import last_positions, query_batch
from eqids.data.words import Words
from eqids.fit.ranking import metrics
from eqids.model import Batch, EqIDs
from eqids.model.rank import ranks
from sharding import Placement, replicated

Split = Literal["valid", "test"]

MOST_USERS = 256
"""Users in a chunk at most."""


@dataclass(frozen=True)
class Chunk:
    """Users who are ranked together; rows past the last user repeat the first.

    Attributes:
        num_users: rows that count.
        histories: the slots of each row's history, oldest first.
        times: their times, or none.
        target: int32 [user], the slot to rank.
        seen: int32 [user, seen], distinct slots of the history, padded with
            `num_slots`.
    """

    num_users: int
    histories: list[np.ndarray]
    times: list[np.ndarray | None]
    target: np.ndarray
    seen: np.ndarray


def targets_of(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the users that a split evaluates, and their targets' positions."""
    position = dataset.valid_at if split == "valid" else dataset.test_at
    users = np.flatnonzero(position > 0)
    require(len(users) > 0, f"{dataset.path} has no user with a {split} target")
    return users, position[users]


def of_users(dataset: Dataset, users: Bool[np.ndarray, " user"]) -> Dataset:
    """Returns the dataset without the targets of other users than these."""
    valid, test = (
        np.where(users, at, -1).astype(np.int32)
        for at in (dataset.valid_at, dataset.test_at)
    )
    return replace(dataset, valid_at=valid, test_at=test)


def of_some_users(dataset: Dataset, most: int | None) -> Dataset:
    """Returns the dataset with the targets of at most so many users.

    They are drawn evenly, and whatever the run, the same ones from the same dataset.
    """
    valid, test = dataset.valid_at > 0, dataset.test_at > 0
    if most is None or most >= np.count_nonzero(valid | test):
        return dataset
    # Of those with targets of both splits, as long as there are enough.
    both = valid & test
    asked = np.flatnonzero(both if np.count_nonzero(both) >= most else valid | test)
    users = np.zeros(dataset.num_users, np.bool_)
    users[np.random.default_rng(0).choice(asked, most, replace=False)] = True
    return of_users(dataset, users)


def chunks(
    dataset: Dataset, split: Split, ways: int = 1, most: int = MOST_USERS
) -> Iterator[Chunk]:
    """Yields the users of a split in chunks of one shape.

    Args:
        dataset: whose users.
        split: whose targets.
        ways: how many devices share a chunk; it divides the number of its rows.
        most: users in a chunk.
    """
    users, positions = targets_of(dataset, split)
    size = -(-min(most, len(users)) // ways) * ways
    width = _most_seen(dataset, users, positions)
    for first in range(0, len(users), size):
        rows = np.arange(first, first + size)
        rows = np.where(rows < len(users), rows, first)
        starts = dataset.offsets[users[rows]]
        spans = [slice(s, s + p) for s, p in zip(starts, positions[rows], strict=True)]
        histories = [dataset.slots[span] for span in spans]
        seen = np.full((size, width), dataset.num_slots, np.int32)
        for row, history in zip(seen, histories, strict=True):
            distinct = np.unique(history)
            row[: len(distinct)] = distinct
        yield Chunk(
            num_users=min(size, len(users) - first),
            histories=histories,
            times=[None if dataset.times is None else dataset.times[s] for s in spans],
            target=dataset.slots[starts + positions[rows]],
            seen=seen,
        )


def _most_seen(dataset: Dataset, users: np.ndarray, positions: np.ndarray) -> int:
    """The longest history of a split, rounded up so that few shapes are compiled."""
    return 1 << int(np.max(positions)).bit_length()


class Queries(eqx.Module):
    """A chunk as arrays: histories, where to ask, and what to rank."""

    batch: Batch
    last: Int[Array, " batch"]
    target: Int[Array, " batch"]
    seen: Int[Array, "batch seen"]


Ranker = Callable[[EqIDs, Chunk], Float[np.ndarray, "user 3"]]
"""Ranks a chunk's targets: filtered, unfiltered; and their log-probabilities."""


def make_ranker(
    seq_len: int, dtype: DTypeLike, put: Placement, words: Words | None = None
) -> Ranker:
    """Returns a function that ranks the targets of a chunk; it compiles once.

    Args:
        seq_len: positions; the model sees the last events of a history that fit.
        dtype: of Llama's computation.
        put: where the model is.
        words: beside the items, as in training, or none.
    """
    if words is not None:
        words.check(seq_len)

    @jax.jit
    def run(model: EqIDs, asked: Queries) -> Float[Array, "batch 3"]:
        query = model.queries_at(asked.batch, asked.last, dtype=dtype)
        # Whole in every process, so that all of them come to the same metrics.
        return replicated(ranks(model.softmax, query, asked.target, asked.seen))

    def rank(model: EqIDs, chunk: Chunk) -> np.ndarray:
        arrays = query_batch(chunk.histories, chunk.times, seq_len, words)
        asked = Queries(
            batch=Batch.of(arrays),
            last=jnp.asarray(last_positions(arrays)),
            target=jnp.asarray(chunk.target),
            seen=jnp.asarray(chunk.seen),
        )
        return np.asarray(run(model, put(asked)))[: chunk.num_users]

    return rank


def evaluate(
    model: EqIDs, dataset: Dataset, split: Split, ranker: Ranker
) -> dict[str, Any]:
    """Returns the metrics of a model on a split, by design.md's names.

    Args:
        model: where `ranker` expects it.
        dataset: whose histories and targets.
        split: `valid` or `test`; at test the history includes the validation item.
        ranker: from `make_ranker`.
    """
    ways = jax.device_count()
    parts = [ranker(model, chunk) for chunk in chunks(dataset, split, ways)]
    ranked = np.concatenate(parts).astype(np.float64)
    return {
        "split": split,
        "num_users": len(ranked),
        **both(ranked),
        "nll": float(-ranked[:, 2].mean()),
        "seen_target_share": float(np.isinf(ranked[:, 0]).mean()),
    }


def both(ranked: Float[np.ndarray, "user columns"]) -> dict[str, Mapping[str, float]]:
    """Returns the metrics with seen items filtered (column 0) and not (column 1)."""
    return {
        "filtered": metrics(ranked[:, 0]),
        "unfiltered": metrics(ranked[:, 1]),
    }
