"""A dataset without the events of some items, and these events to rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.cold_options import ColdOptions
from eqids.config import (
    require,
)
from eqids.data import Dataset, write_dataset
from eqids.data.clustering.cluster_sizes import assign, place
from eqids.data.clustering.vectors import item_vectors
from eqids.data.files import ITEMS_FILE, USERS_FILE
from eqids.data.raw.splits import leave_one_out
from eqids.fit.evaluation import (
    MOST_USERS,
    Chunk,
    times_of,
)

TEXT_WIDTH = 64
"""Size of the vectors that items are clustered by, as in `prepare`."""


@dataclass(frozen=True, eq=False)
class Withheld:
    """A dataset, whole and without withheld events; its users are the same in both."""

    whole: Dataset
    rest: Dataset
    slot: np.ndarray
    """int32 [slot of the whole]: the slot of the same item in the rest."""
    cold: np.ndarray
    """bool [slot of the whole]: whether the item is withheld."""
    nearest: np.ndarray
    """int [item withheld, 2]: slots of the rest, of the item and of the used one with
    the nearest text."""
    users: np.ndarray
    """int [evaluated user]: numbers of users."""


def withhold(whole: Dataset, text: np.ndarray, options: ColdOptions) -> Withheld:
    """Writes a dataset that lacks the events of some items.

    Items are clustered by the users of their events. An item without events gets the
    vector of the used item whose text is nearest.

    Args:
        whole: the dataset.
        text: float32 [slot, width], vectors of texts.
        options: how many items, and the folder of the new dataset.
    """
    table = pq.read_table(whole.path / ITEMS_FILE)
    old = table["slot"].to_numpy()
    cold, users = _draw(whole, old, options)
    kept = ~cold[whole.slots]
    offsets = np.concatenate([[0], np.cumsum(kept)])[whole.offsets]
    split = leave_one_out(offsets)
    item, user = _training_events(whole, old, kept, split.in_training(offsets))
    count = np.bincount(item, minlength=len(old))
    vectors = _item_vectors(whole, user, item, text[old], options.seed)
    num_clusters = whole.info.num_clusters
    cluster = assign("kmeans", vectors, count, num_clusters, options.seed)
    slot, cluster_size = place(cluster, num_clusters)
    new_slot = np.full(whole.num_slots, -1, np.int32)
    new_slot[old] = slot
    histories = {"slots": new_slot[whole.slots[kept]], "offsets": offsets}
    if whole.times is not None:
        histories["times"] = whole.times[kept]
    for name, values in (("slot", slot), ("count", count)):
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values))
    info = replace(
        whole.info,
        num_events=int(kept.sum()),
        cluster_size=cluster_size,
        clusters=replace(whole.info.clusters, vector_width=text.shape[1]),
    )
    targets = {"valid_at": split.valid_at, "test_at": split.test_at}
    people = _user_table(whole, split.train_length, targets, users)
    rest = write_dataset(
        options.folder / "data", info, histories, people, table, vectors, overwrite=True
    )
    unused = np.flatnonzero(count == 0)
    near = nearest(text[old[unused]], text[old], np.flatnonzero(count > 0))
    pairs = np.stack([slot[unused], slot[near]], axis=1)
    return Withheld(whole, rest, new_slot, cold, pairs, users)


def _draw(
    whole: Dataset, slot: np.ndarray, options: ColdOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Returns bool [slot], the withheld items, and int [user], the evaluated users.

    Args:
        whole: the dataset.
        slot: int [item], the slots of its items.
        options: how many of both.
    """
    rng = np.random.default_rng(options.seed)
    cold = np.zeros(whole.num_slots, np.bool_)
    num = max(1, round(options.share * len(slot)))
    cold[rng.choice(slot, num, replace=False)] = True
    return cold, np.sort(rng.permutation(whole.num_users)[: options.num_users])


def _training_events(
    whole: Dataset, slot: np.ndarray, kept: np.ndarray, training: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the item, by its row of the items' table, and user of training events.

    Args:
        whole: the dataset.
        slot: int [item], the slot of each row.
        kept: bool [event], whether the event stays.
        training: bool [kept event], whether it is a training event.
    """
    row = np.zeros(whole.num_slots, np.int64)
    row[slot] = np.arange(len(slot))
    user = np.repeat(np.arange(whole.num_users), np.diff(whole.offsets))
    return row[whole.slots[kept][training]], user[kept][training]


def _item_vectors(
    whole: Dataset, user: np.ndarray, item: np.ndarray, text: np.ndarray, seed: int
) -> np.ndarray:
    """Returns float32 [item, width], vectors of who used what; see `withhold`."""
    num_items, width = text.shape
    vectors = item_vectors(user, item, whole.num_users, num_items, width, seed)
    used = np.bincount(item, minlength=num_items) > 0
    near = nearest(text[~used], text, np.flatnonzero(used))
    vectors[~used] = vectors[near]
    return vectors


def _user_table(
    whole: Dataset,
    train_length: np.ndarray,
    targets: Mapping[str, np.ndarray],
    users: np.ndarray,
) -> pa.Table:
    """Returns the users' table, with targets for evaluated users only."""
    evaluated = np.isin(np.arange(whole.num_users), users)
    columns = {
        "user": pq.read_table(whole.path / USERS_FILE)["user"],
        "train_length": train_length,
    }
    for name, at in targets.items():
        columns[name] = np.where(evaluated, at, -1).astype(np.int32)
    return pa.table(columns)


def withheld_events(withheld: Withheld) -> Iterator[Chunk]:
    """Yields the events of withheld items, each after its user's other events."""
    whole, rest = withheld.whole, withheld.rest
    found = []
    for user in withheld.users.tolist():
        events = whole.history(user)
        before = np.cumsum(~withheld.cold[events])
        for at in np.flatnonzero(withheld.cold[events] & (before > 0)):
            event = whole.offsets[user] + at
            found.append((user, before[at], withheld.slot[events[at]], event))
    require(
        len(found) > 0,
        "no evaluated user used a withheld item after another one, wanted a larger "
        "--share or --num_users",
    )
    user, length, target, event = np.array(found, np.int64).T
    order = np.argsort(length, kind="stable")
    for first in range(0, len(order), MOST_USERS):
        rows = order[first : first + MOST_USERS]
        starts = rest.offsets[user[rows]]
        spans = [slice(s, s + n) for s, n in zip(starts, length[rows], strict=True)]
        yield Chunk.of(
            [rest.slots[span] for span in spans],
            [None if rest.times is None else rest.times[s] for s in spans],
            times_of(whole, event[rows]),
            target[rows],
            MOST_USERS,
        )


def nearest(vectors: np.ndarray, others: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns, for each vector, the row of `others` with the nearest direction.

    Args:
        vectors: float32 [vector, width].
        others: float32 [row, width].
        rows: int [some], the rows to choose from.

    Returns:
        int [vector].
    """
    length = np.linalg.norm(others[rows], axis=1, keepdims=True)
    cosine = vectors @ (others[rows] / np.maximum(length, 1e-9)).T
    return rows[cosine.argmax(axis=1)]
