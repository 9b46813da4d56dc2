"""Evaluates recommendations of items without any events: `python -m bench.cold`.

    python -m bench.cold --llama_path llamas/smollm2 --folder runs/cold \\
        --train="--num_steps 300 --batch_size 8 --seq_len 64"

Some items of a dataset are withheld: they stay in its catalog, and their events are
removed from its histories. A run is trained for each way to place them, with
everything else equal. Then each event of a withheld item is ranked in the whole
catalog.
"""

import shlex
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import convert
from eqids import train
from eqids.cli import parse, run_as_process, say
from eqids.config import (
    ONE_OR_MORE,
    OPEN_SHARE,
    TrainConfig,
    check_flags,
    require,
)
from eqids.data import Dataset, open_dataset, write_dataset
from eqids.data.clustering.cluster_sizes import assign, place
from eqids.data.clustering.vectors import item_vectors
from eqids.data.files import ITEMS_FILE, USERS_FILE
from eqids.data.raw.splits import leave_one_out
from eqids.fit.evaluation import MOST_USERS, Chunk, make_ranker, times_of
from eqids.fit.ranking import metrics
from eqids.inference.open import open_checkpoint
from eqids.io.atomic import write_json
from eqids.runs.text_vectors import text_start, texts_to_read
from sharding import placement

_WIDTH = 64
"""Size of the vectors that items are clustered by, as in `prepare`."""


ColdStart = Literal["random", "text", "features"]

_FLAGS: Mapping[ColdStart, tuple[str, ...]] = types.MappingProxyType(
    {
        "random": ("--init_items", "random", "--no_text_features"),
        "text": ("--init_items", "text"),
        "features": (),
    }
)


@dataclass(frozen=True)
class ColdOptions:
    """The flags of `python -m bench.cold`."""

    llama_path: Path
    """Folder of a pretrained Llama."""
    folder: Path
    """Folder for the dataset without the withheld events, and for the runs."""
    data_dir: Path = Path("data/ml-100k")
    """Dataset folder whose items have texts."""
    share: float = 0.1
    """Share of the items to withhold."""
    starts: tuple[ColdStart, ...] = ("random", "text", "features")
    """How items are placed, a run for each: by random vectors, by copying the used item
    with the nearest text (--init_items text), or by text columns (--text_features)."""
    num_users: int = 200
    """Number of users to evaluate, the same in all runs."""
    train: str = ""
    """More flags of `python -m eqids.train`."""
    seed: int = 0
    """Seed of the withheld items and the evaluated users."""
    json: Path | None = None
    """Write the result to this JSON file."""

    def __post_init__(self) -> None:
        check_flags(self, "share", OPEN_SHARE)
        check_flags(self, "num_users", ONE_OR_MORE)


@dataclass(frozen=True, eq=False)
class Withheld:
    """A dataset, whole and without withheld events; its users are the same in both."""

    whole: Dataset
    rest: Dataset
    slot: np.ndarray
    """int32 [slot of the whole]: the slot of the same item in the rest."""
    cold: np.ndarray
    """bool [slot of the whole]: whether the item is withheld."""
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
    return Withheld(whole, rest, new_slot, cold, users)


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


def measure(options: ColdOptions) -> dict[str, dict[str, float]]:
    """Trains and evaluates a run for each start of the item vectors."""
    put = placement("none")
    llama = convert.load_llama(options.llama_path, "float32", put, head=False)
    whole = open_dataset(options.data_dir)
    flags = TrainConfig(llama_path=options.llama_path, init_items="text")
    tokens = texts_to_read(flags, whole, llama.config, say)
    assert tokens is not None
    text = text_start(tokens, whole, llama, _WIDTH, jnp.float32, put)
    del llama
    withheld = withhold(whole, text.reshape(whole.num_slots, -1), options)
    return {start: train_and_rank(withheld, start, options) for start in options.starts}


def train_and_rank(
    withheld: Withheld, start: ColdStart, options: ColdOptions
) -> dict[str, float]:
    """Trains a run, and ranks the withheld items with its best step."""
    folder = options.folder / start
    train.main(
        ["--llama_path", str(options.llama_path), *_FLAGS[start],
         "--data_dir", str(withheld.rest.path), "--checkpoint_dir", str(folder),
         *shlex.split(options.train)]
    )  # fmt: skip
    put = placement("none")
    opened = open_checkpoint(folder, None, None, put)
    seq_len = opened.config.recipe.seq_len
    ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
    parts = [ranker(opened.model, chunk) for chunk in withheld_events(withheld)]
    ranked = np.concatenate(parts).astype(np.float64)
    return {"events": float(len(ranked)), **metrics(ranked[:, 0])}


def table_of(results: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the results as a table."""
    names = ("recall@10", "recall@50", "ndcg@50")
    lines = [f"{'placed by':14}{'events':>10}" + "".join(f"{n:>11}" for n in names)]
    for start, found in results.items():
        cells = "".join(f"{found[name]:11.4f}" for name in names)
        lines.append(f"{start:14}{found['events']:10,.0f}{cells}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures once, and prints and writes the result."""
    options = parse(ColdOptions, argv, "bench.cold", __doc__)
    options.folder.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    print(table_of(results))
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    run_as_process(main)
