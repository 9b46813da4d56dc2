"""Evaluation on the full catalog, in chunks of users."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.cli import Counted, first_call_announced
from eqids.config import require
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import last_positions, query_batch
from eqids.fit.ranking import metrics
from eqids.model import Batch, EqIDs, PrefixCache, recent_items
from eqids.model.rank import ranks
from sharding import Placement, replicated

Split = Literal["valid", "test"]

MOST_USERS = 256
"""Most users in a chunk."""
_MOST_SEEN = 2**20
"""Most items that the users of a chunk have seen; a user with more has a chunk
alone."""
_NO_SLOT = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Chunk:
    """Users whose targets are ranked together; spare rows repeat the first user.

    Attributes:
        num_users: users; the other rows are spare.
        histories: the slots of each row's history, oldest first.
        times: the times of the histories' events, or none.
        request_times: when each target is requested, its own time, where it is known.
        target: int32 [user], the slot to rank.
        seen: int32 [user, seen], the distinct slots of all histories, padded with
            numbers that are no slots. They fill the rows evenly: items of a long
            history also use the rows of short ones.
        seen_by: int32 [user, seen], the row of the user who has seen each.
    """

    num_users: int
    histories: list[np.ndarray]
    times: list[np.ndarray | None]
    request_times: list[int | None]
    target: np.ndarray
    seen: np.ndarray
    seen_by: np.ndarray

    @staticmethod
    def of(
        histories: Sequence[np.ndarray],
        times: Sequence[np.ndarray | None],
        request_times: Sequence[int | None],
        target: np.ndarray,
        num_rows: int,
        least_width: int = 1,
    ) -> "Chunk":
        """Returns a chunk of users.

        Args:
            histories: the slots of each, oldest first.
            times: the times of each, or none.
            request_times: when each target is requested, where it is known.
            target: int [user], slots.
            num_rows: rows of the chunk, at least one for each user.
            least_width: the least width of `seen`; larger widths are powers of two, so
                that few shapes are compiled.
        """
        distinct = [np.unique(history) for history in histories]
        counts = [len(slots) for slots in distinct]
        width = max(least_width, _power_of_two(-(-sum(counts) // num_rows)))
        seen = np.full((num_rows, width), _NO_SLOT, np.int32)
        seen_by = np.zeros((num_rows, width), np.int32)
        seen.flat[: sum(counts)] = np.concatenate(distinct)
        seen_by.flat[: sum(counts)] = np.repeat(np.arange(len(counts)), counts)
        num_users, more = len(histories), num_rows - len(histories)
        return Chunk(
            num_users=num_users,
            histories=[*histories, *[histories[0]] * more],
            times=[*times, *[times[0]] * more],
            request_times=[*request_times, *[request_times[0]] * more],
            target=np.append(target, np.repeat(target[:1], more)).astype(np.int32),
            seen=seen,
            seen_by=seen_by,
        )


def _power_of_two(number: int) -> int:
    """The smallest power of two that is at least the number."""
    return 1 << (number - 1).bit_length()


def targets_of(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the users that a split evaluates, and their targets' positions."""
    position = dataset.valid_at if split == "valid" else dataset.test_at
    users = np.flatnonzero(position > 0)
    require(len(users) > 0, f"{dataset.path} has no user with a {split} target")
    return users, position[users]


def target_slots(dataset: Dataset, split: Split) -> Int[np.ndarray, " user"]:
    """Returns the item of each target; users as `targets_of` has them."""
    users, positions = targets_of(dataset, split)
    return dataset.slots[dataset.offsets[users] + positions]


def of_users(dataset: Dataset, users: Bool[np.ndarray, " user"]) -> Dataset:
    """Returns the dataset with the targets of these users only."""
    valid, test = (
        np.where(users, at, -1).astype(np.int32)
        for at in (dataset.valid_at, dataset.test_at)
    )
    return replace(dataset, valid_at=valid, test_at=test)


def of_some_users(dataset: Dataset, most: int | None) -> Dataset:
    """Returns the dataset with the targets of at most `most` users.

    They are drawn uniformly; the draw depends only on the dataset.
    """
    valid, test = dataset.valid_at > 0, dataset.test_at > 0
    if most is None or most >= np.count_nonzero(valid | test):
        return dataset
    # Users with targets in both splits are preferred, if there are enough.
    both = valid & test
    drawn_from = both if np.count_nonzero(both) >= most else valid | test
    users, rng = np.zeros(dataset.num_users, np.bool_), np.random.default_rng(0)
    users[rng.choice(np.flatnonzero(drawn_from), most, replace=False)] = True
    return of_users(dataset, users)


def times_of(dataset: Dataset, events: Int[np.ndarray, " event"]) -> list[int | None]:
    """Returns the times of events by their positions in the histories; None unknown."""
    if dataset.times is None:
        return [None] * len(events)
    return list(dataset.times[events].tolist())


def chunks(
    dataset: Dataset, split: Split, num_devices: int = 1, most: int = MOST_USERS
) -> Iterator[Chunk]:
    """Yields the users of a split in chunks of few shapes.

    A chunk holds fewer users if they have seen very many items: its memory is bounded,
    whatever the length of a history.

    Args:
        dataset: the dataset of the users.
        split: the split that has the targets.
        num_devices: devices that share a chunk, whose number of rows it divides.
        most: users in a chunk, at most.
    """
    users, positions = targets_of(dataset, split)
    size = -(-min(most, len(users)) // num_devices) * num_devices
    # Upper bounds of the number of seen items, so that histories are read only once.
    seen = np.cumsum(np.minimum(positions, dataset.num_slots), dtype=np.int64)
    # A width that suffices for most chunks, so that most have one shape.
    width, first = _power_of_two(1 + int(1.25 * seen[-1] / len(users))), 0
    while first < len(users):
        before = seen[first - 1] if first else 0
        fit = int(np.searchsorted(seen, before + _MOST_SEEN, side="right")) - first
        rows = np.arange(first, min(first + size, first + max(fit, 1), len(users)))
        starts = dataset.offsets[users[rows]]
        targets = starts + positions[rows]
        spans = [slice(s, t) for s, t in zip(starts, targets, strict=True)]
        yield Chunk.of(
            [dataset.slots[span] for span in spans],
            [None if dataset.times is None else dataset.times[s] for s in spans],
            times_of(dataset, targets),
            dataset.slots[targets],
            size,
            width,
        )
        first += len(rows)


class Evaluation(TypedDict):
    """Metrics of a model on a split, by the names that results are written with."""

    split: Split
    num_users: int
    filtered: Mapping[str, float]
    unfiltered: Mapping[str, float]
    nll: float
    seen_target_share: float
    counts_weight: float
    """The weight of counts in the mixture."""
    text_lift: float
    """The lift of the items' texts in the query."""


class RankTargets(eqx.Module):
    """What to rank for the users of a chunk, see `Chunk`."""

    target: Int[Array, " batch"]
    seen: Int[Array, "batch seen"]
    seen_by: Int[Array, "batch seen"]


class ChunkQueries(eqx.Module):
    """The queries of a chunk, and what to rank for them."""

    query: Float[Array, "batch item_width"]
    recent: Int[Array, "batch recent"]
    targets: RankTargets


@dataclass(frozen=True)
class Ranker:
    """Ranks the targets of chunks.

    Attributes:
        queries_of: computes the queries of a chunk: Llama reads its histories.
        ranks: returns ranks filtered and unfiltered, and log-probabilities, of all
            rows.
    """

    queries_of: Callable[[EqIDs, Chunk], ChunkQueries]
    ranks: Callable[[EqIDs, ChunkQueries], Float[Array, "batch 3"]]

    def __call__(self, model: EqIDs, chunk: Chunk) -> Float[np.ndarray, "user 3"]:
        """Returns ranks and log-probabilities of the users' targets."""
        ranked = self.ranks(model, self.queries_of(model, chunk))
        return np.asarray(ranked)[: chunk.num_users]


def make_ranker(
    seq_len: int,
    dtype: DTypeLike,
    put: Placement,
    tokens: ItemTokens | None = None,
    prefix: PrefixCache | None = None,
) -> Ranker:
    """Returns what ranks the targets of chunks; it compiles once.

    Args:
        seq_len: positions; the model reads the last events of a history that fit.
        dtype: Llama's compute dtype.
        put: places the batches where the model is.
        tokens: the tokens of the items' texts, as in training, or none.
        prefix: the prompt's keys and values, if the tokens lack the prompt.
    """
    if tokens is not None:
        tokens.check(seq_len)

    @jax.jit
    def queries(
        model: EqIDs, histories: _Histories, prefix: PrefixCache | None
    ) -> tuple[Float[Array, "batch item_width"], Int[Array, "batch recent"]]:
        batch, last = histories.batch, histories.last
        recent = recent_items(batch.items, batch.segment, last)
        return model.queries_at(batch, last, dtype=dtype, prefix=prefix), recent

    def queries_of(model: EqIDs, chunk: Chunk) -> ChunkQueries:
        requested = chunk.request_times if model.config.request_time else None
        host = query_batch(chunk.histories, chunk.times, seq_len, tokens, requested)
        histories = _Histories(Batch.of(host), jnp.asarray(last_positions(host)))
        targets = RankTargets(
            target=jnp.asarray(chunk.target),
            seen=jnp.asarray(chunk.seen),
            seen_by=jnp.asarray(chunk.seen_by),
        )
        query, recent = queries(model, put(histories), prefix)
        return ChunkQueries(query, recent, put(targets))

    what = "compiling the evaluation, once a run"
    return Ranker(first_call_announced(queries_of, what), jax.jit(_ranks))


class _Histories(eqx.Module):
    """The histories of a chunk, a row each, and their last positions."""

    batch: Batch
    last: Int[Array, " batch"]


def _ranks(model: EqIDs, asked: ChunkQueries) -> Float[Array, "batch 3"]:
    query = model.lifted(asked.query, asked.recent)
    mixture = model.mixture(query, asked.recent)
    targets = asked.targets
    # Replicated, so that every process computes the same metrics.
    return replicated(
        ranks(
            model.softmax, query, targets.target, targets.seen, targets.seen_by,
            mixture,
        )
    )  # fmt: skip


def rank_users(
    model: EqIDs, dataset: Dataset, split: Split, ranker: Ranker
) -> Float[np.ndarray, "user 3"]:
    """Returns each user's ranks, filtered and unfiltered, and log-probability.

    Args:
        model: placed as `ranker` expects it.
        dataset: the dataset with the histories and the targets.
        split: `valid` or `test`; at test the history includes the validation item.
        ranker: a function that `make_ranker` returned.

    Returns:
        float64, a row for each user of `targets_of`, in its order.
    """
    parts, (users, _) = list[np.ndarray](), targets_of(dataset, split)
    with Counted(f"evaluating on {split}", len(users), "users") as counted:
        for chunk in chunks(dataset, split, jax.device_count()):
            parts.append(ranker(model, chunk))
            counted.update(chunk.num_users)
    return np.concatenate(parts).astype(np.float64)


def evaluate(
    model: EqIDs, dataset: Dataset, split: Split, ranker: Ranker
) -> Evaluation:
    """Returns the metrics of a model on a split; its arguments as in `rank_users`."""
    return evaluation(model, split, rank_users(model, dataset, split, ranker))


def evaluation(
    model: EqIDs, split: Split, ranked: Float[np.ndarray, "user 3"]
) -> Evaluation:
    """Returns the metrics of a model, given the users' ranks and log-probabilities."""
    counts, skip = model.successors, model.skip
    lift = None if skip is None else skip.text_lift
    return {
        "split": split,
        "num_users": len(ranked),
        "filtered": metrics(ranked[:, 0]),
        "unfiltered": metrics(ranked[:, 1]),
        "nll": float(-ranked[:, 2].mean()),
        "seen_target_share": float(np.isinf(ranked[:, 0]).mean()),
        "counts_weight": 0.0 if counts is None else round(float(counts.gate), 4),
        "text_lift": 0.0 if lift is None else round(float(lift), 4),
    }
