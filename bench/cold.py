"""Recommending items that nobody has used yet: `python -m bench.cold`.

    python -m bench.cold --llama_path llamas/smollm2 --folder runs/cold \\
        --train="--num_steps 300 --batch_size 8 --seq_len 64"

Withholds some items of a dataset: they stay in its catalog, and their events leave its
histories. Trains once for each start of the item vectors, with all else equal, then
ranks the withheld items where users did use them, in the whole catalog.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import convert
from eqids import train
from eqids.cli import parse, run, say
from eqids.config import InitItems, TrainConfig, require
from eqids.data import Dataset, open_dataset, write_dataset
from eqids.data.clustering.cluster_sizes import assign, place
from eqids.data.clustering.vectors import item_vectors
from eqids.data.files import ITEMS_FILE, USERS_FILE
from eqids.data.raw.splits import leave_one_out
from eqids.fit.evaluation import MOST_USERS, Chunk, make_ranker
from eqids.fit.ranking import metrics
from eqids.inference.open import open_checkpoint
from eqids.io.atomic import write_json
from eqids.runs.text_vectors import text_start, texts_to_read
from sharding import placement

_WIDTH = 64
"""Of vectors that items are clustered by, as `prepare` has it."""


@dataclass(frozen=True)
class ColdOptions:
    """What `python -m bench.cold` is told."""

    llama_path: Path
    """The folder of a pretrained Llama."""
    folder: Path
    """Where the dataset without the withheld items, and the runs, go."""
    data_dir: Path = Path("data/ml-100k")
    """A dataset folder whose items have texts."""
    share: float = 0.1
    """Share of the items that is withheld."""
    starts: tuple[InitItems, ...] = ("random", "text")
    """What --init_items is, a run each."""
    num_users: int = 200
    """Users who are evaluated, the same in all runs."""
    train: str = ""
    """More flags of `python -m eqids.train`."""
    seed: int = 0
    """Draws items and users."""
    json: Path | None = None
    """Write the result there."""

    def __post_init__(self) -> None:
        require(
            0 < self.share < 1,
            f"--share is {self.share}, wanted more than 0 and less than 1",
        )
        require(
            self.num_users >= 1, f"--num_users is {self.num_users}, wanted 1 or more"
        )


@dataclass(frozen=True, eq=False)
class Withheld:
    """A dataset before and after, with the same users in the same order."""

    whole: Dataset
    rest: Dataset
    slot: np.ndarray
    """int32 [slot of the whole]: the same item's in the rest."""
    cold: np.ndarray
    """bool [slot of the whole]: items that are withheld."""
    users: np.ndarray
    """int [user]: who is evaluated."""


def withhold(whole: Dataset, text: np.ndarray, options: ColdOptions) -> Withheld:
    """Writes a dataset that lacks the events of some items.

    Its clusters are of who used what; an item that nobody uses counts as used by those
    who use the one with the nearest text.

    Args:
        whole: the dataset.
        text: float32 [slot, width], vectors of texts.
        options: how much, and where the dataset goes.
    """
    rng = np.random.default_rng(options.seed)
    table = pq.read_table(whole.path / ITEMS_FILE)
    old = table["slot"].to_numpy()
    cold = np.zeros(whole.num_slots, np.bool_)
    num = max(1, round(options.share * len(old)))
    cold[rng.choice(old, num, replace=False)] = True
    users = np.sort(rng.permutation(whole.num_users)[: options.num_users])
    kept = ~cold[whole.slots]
    offsets = np.concatenate([[0], np.cumsum(kept)])[whole.offsets]
    split = leave_one_out(offsets)
    training = split.in_training(offsets)
    row = np.zeros(whole.num_slots, np.int64)
    row[old] = np.arange(len(old))
    item = row[whole.slots[kept][training]]
    user = np.repeat(np.arange(whole.num_users), np.diff(offsets))[training]
    count = np.bincount(item, minlength=len(old))
    width, num_clusters = text.shape[1], whole.info.num_clusters
    vectors = item_vectors(user, item, whole.num_users, len(old), width, options.seed)
    used = count > 0
    near = nearest(text[old][~used], text[old], np.flatnonzero(used))
    vectors[~used] = vectors[near]
    cluster = assign("kmeans", vectors, count, num_clusters, options.seed)
    slot, cluster_size = place(cluster, num_clusters)
    moved = np.full(whole.num_slots, -1, np.int32)
    moved[old] = slot
    histories = {"slots": moved[whole.slots[kept]], "offsets": offsets}
    if whole.times is not None:
        histories["times"] = whole.times[kept]
    evaluated = np.isin(np.arange(whole.num_users), users)
    people = {
        "user": pq.read_table(whole.path / USERS_FILE)["user"],
        "train_length": split.train_length,
        "valid_at": np.where(evaluated, split.valid_at, -1).astype(np.int32),
        "test_at": np.where(evaluated, split.test_at, -1).astype(np.int32),
    }
    for name, values in (("slot", slot), ("count", count)):
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values))
    clusters = replace(whole.info.clusters, vector_width=width)
    num_events = int(kept.sum())
    info = replace(
        whole.info, num_events=num_events, cluster_size=cluster_size, clusters=clusters
    )
    folder = options.folder / "data"
    rest = write_dataset(
        folder, info, histories, pa.table(people), table, vectors, overwrite=True
    )
    return Withheld(whole, rest, moved, cold, users)


def asked(withheld: Withheld) -> Iterator[Chunk]:
    """Yields the events of withheld items, after what the same user used before."""
    whole, rest = withheld.whole, withheld.rest
    found = []
    for user in withheld.users.tolist():
        events = whole.history(user)
        before = np.cumsum(~withheld.cold[events])
        for at in np.flatnonzero(withheld.cold[events] & (before > 0)):
            found.append((user, before[at], withheld.slot[events[at]]))
    require(
        len(found) > 0,
        "no evaluated user used a withheld item after another one, wanted a larger "
        "--share or --num_users",
    )
    user, length, target = np.array(found, np.int64).T
    order = np.argsort(length, kind="stable")
    for first in range(0, len(order), MOST_USERS):
        rows = order[first : first + MOST_USERS]
        starts = rest.offsets[user[rows]]
        spans = [slice(s, s + n) for s, n in zip(starts, length[rows], strict=True)]
        yield Chunk.of(
            [rest.slots[span] for span in spans],
            [None if rest.times is None else rest.times[s] for s in spans],
            target[rows],
            MOST_USERS,
        )


def nearest(vectors: np.ndarray, known: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of these rows of `known`, the one whose direction is nearest, for each vector.

    Args:
        vectors: float32 [vector, width].
        known: float32 [row, width].
        rows: int [some].

    Returns:
        int [vector].
    """
    length = np.linalg.norm(known[rows], axis=1, keepdims=True)
    cosine = vectors @ (known[rows] / np.maximum(length, 1e-9)).T
    return rows[cosine.argmax(axis=1)]


def measure(options: ColdOptions) -> dict[str, dict[str, float]]:
    """Trains and ranks, once for each start of the item vectors."""
    put = placement("none")
    llama = convert.load_llama(options.llama_path, "float32", put, head=False)
    whole = open_dataset(options.data_dir)
    flags = TrainConfig(llama_path=options.llama_path, init_items="text")
    tokens = texts_to_read(flags, whole, llama.config, say)
    assert tokens is not None
    text = text_start(tokens, whole, llama, _WIDTH, jnp.float32, put)
    del llama
    withheld = withhold(whole, text.reshape(whole.num_slots, -1), options)
    return {start: arm(withheld, start, options) for start in options.starts}


def arm(withheld: Withheld, start: str, options: ColdOptions) -> dict[str, float]:
    """Trains a run and ranks the withheld items with its best step."""
    folder = options.folder / start
    train.main(
        ["--llama_path", str(options.llama_path), "--init_items", start,
         "--data_dir", str(withheld.rest.path), "--checkpoint_dir", str(folder),
         *shlex.split(options.train)]
    )  # fmt: skip
    put = placement("none")
    opened = open_checkpoint(folder, None, None, put)
    seq_len = opened.config.recipe.seq_len
    ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
    parts = [ranker(opened.model, chunk) for chunk in asked(withheld)]
    ranked = np.concatenate(parts).astype(np.float64)
    return {"events": float(len(ranked)), **metrics(ranked[:, 0])}


def shown(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as a table."""
    names = ("recall@10", "recall@50", "ndcg@50")
    lines = [f"{'--init_items':14}{'events':>10}" + "".join(f"{n:>11}" for n in names)]
    for start, found in results.items():
        cells = "".join(f"{found[name]:11.4f}" for name in names)
        lines.append(f"{start:14}{found['events']:10,.0f}{cells}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures once and prints, or writes, what came of it."""
    options = parse(ColdOptions, argv, "bench.cold", __doc__)
    options.folder.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    print(shown(results))
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    run(main)
