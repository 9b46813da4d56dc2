"""What `python -m eqids.prepare` does once its flags are read."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eqids.cli import say, shell_word, visible
from eqids.config import PrepareConfig
from eqids.data import Dataset, DatasetInfo
from eqids.data.clustering.cluster_items import Reader
from eqids.data.info import INFO_FILE, read_info
from eqids.data.preparation import prepare
from eqids.data.raw.times import span


def prepare_and_report(config: PrepareConfig) -> None:
    """Prepares the dataset and says what it holds."""
    start = time.perf_counter()
    read = None if config.llama_path is None else _reader(config.llama_path)
    dataset = prepare(config, lambda text: tqdm.write(visible(text), sys.stdout), read)
    say(summary(dataset))
    say(f"done in {time.perf_counter() - start:.1f} s; next:")
    say("\n".join(f"  python -m {command}" for command in _next(config, dataset)))


def _reader(llama_path: Path) -> Reader:
    """Returns what makes vectors of texts with a Llama, once it is seen to be there."""
    # Imported here: a command that needs no model does not wait for jax.
    import convert
    from eqids.data.batches.item_texts import tokenizer_file, tokens_of_texts
    from eqids.runs.run_tokens import check_vocab
    from eqids.runs.text_vectors import MOST_TOKENS, principal, text_vectors
    from sharding import placement

    sizes, tokenizer = convert.check_llama(llama_path), tokenizer_file(None, llama_path)

    def read(texts: Sequence[str], width: int) -> np.ndarray:
        tokens = tokens_of_texts(texts, tokenizer, MOST_TOKENS)
        check_vocab(tokens, sizes)
        put = placement("none")
        llama = convert.load_llama(llama_path, "float32", put, head=False)
        return principal(text_vectors(llama, tokens, "float32", put), width)

    return read


def _next(config: PrepareConfig, dataset: Dataset) -> list[str]:
    """What to type next; checkpoints of an older catalog have to follow first."""
    folder = shell_word(str(config.folder))
    train = f"eqids.train --data_dir {folder}"
    if config.catalog is None:
        return [train]
    old = read_info(config.catalog / INFO_FILE)
    if old.catalog_id == dataset.info.catalog_id:
        return [f"{train} --load_checkpoint RUN"]
    return [
        f"eqids.catalog migrate --data_dir {folder} --checkpoint RUN",
        f"{train} --load_checkpoint RUN-v{dataset.info.catalog_version}",
    ]


def summary(dataset: Dataset) -> str:
    """The numbers of a dataset, a line for each thing worth knowing."""
    info, counts = dataset.info, dataset.info.counts
    density = info.num_events / (info.num_users * info.num_items)
    ties = {"file_order": "file's order", "seeded_hash": "a seeded hash"}
    rows = {
        "users": f"{info.num_users:,} ({counts.users_dropped:,} dropped as rare)",
        "items": f"{info.num_items:,} ({counts.items_dropped:,} dropped as rare, "
        f"{counts.items_untrained:,} in no training event)",
        "events": f"{info.num_events:,} of {counts.rows_read:,} rows, density "
        f"{density:.2%} ({counts.missing_dropped:,} without a value, "
        f"{counts.rated_lower:,} rated lower, {counts.duplicates_dropped:,} "
        f"duplicates, {counts.rare_dropped:,} rare)",
        "times": _times(dataset),
        "ties": f"{counts.tied_neighbours:,} neighbours in one moment, ordered by "
        f"{ties[info.protocol.ties]}",
        "split": f"{info.protocol.split}: {counts.users_valid:,} users validate, "
        f"{counts.users_test:,} test, {counts.short_users:,} train only",
        "clusters": _clusters(info),
        "dataset": info.dataset_hash[:16],
    }
    return "\n".join(f"{name:<9} {text}" for name, text in rows.items())


def _times(dataset: Dataset) -> str:
    """The range of times as dates."""
    info, times = dataset.info, dataset.times
    if times is None:
        by = info.protocol.order_column
        return "none, in the order of " + ("rows" if by is None else f"column {by!r}")
    return f"{span(int(times.min()), int(times.max()))} (from {info.time_unit})"


def _clusters(info: DatasetInfo) -> str:
    clusters, places = info.clusters, info.num_clusters * info.cluster_size
    random = clusters.random_share
    expected = "" if random is None else f" (at random {random:.1%})"
    of = f" of {clusters.vectors}" if clusters.method == "kmeans" else ""
    return (
        f"{info.num_clusters:,} of {clusters.smallest:,} to {clusters.largest:,} "
        f"items, by {clusters.method}{of}, {1 - info.num_items / places:.1%} of "
        f"places empty; {clusters.consecutive_share:.1%} of consecutive events share "
        f"one{expected}"
    )
