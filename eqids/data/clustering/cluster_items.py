"""Puts the items of training events into clusters: vectors, clusters, places."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64

from eqids.cli import Counted
from eqids.config import PrepareConfig, require
from eqids.data.clustering.cluster_sizes import assign, place
from eqids.data.clustering.given_clusters import given_clusters
from eqids.data.clustering.kmeans import kmeans_bytes, num_steps
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.data.clustering.own_vectors import own_vectors
from eqids.data.clustering.quality import balance, consecutive_share, random_share
from eqids.data.clustering.vectors import item_vectors, item_vectors_bytes, word_vectors
from eqids.data.info import ClustersInfo
from eqids.data.raw.interactions import Interactions
from eqids.data.raw.splits import SplitPositions

TextEncoder = Callable[[Sequence[str], int], np.ndarray]
"""Makes vectors, float32 [item, width], from texts and a width; given as a function,
because this package must not import the model."""

_LARGE = 1_000_000
"""Number of items from which on memory and progress are reported."""


@dataclass(frozen=True)
class Clustered:
    """The slots of items, with the counts and vectors that they were made from.

    With --catalog, counts and vectors include all items of the catalog.
    """

    slot: Int32[np.ndarray, " item"]
    """Slots in the order of `Interactions.items`."""
    count: Int64[np.ndarray, " row"]
    """Training events, in the order of `items.parquet`."""
    vectors: Float32[np.ndarray, "row vector_width"]
    """Vectors, in the same order."""
    num_clusters: int
    """Number of clusters."""
    cluster_size: int
    """Places in a cluster."""
    info: ClustersInfo
    """How the clusters were made."""


def make_catalog(
    found: Interactions,
    split: SplitPositions,
    config: PrepareConfig,
    report: Callable[[str], None],
    encode: TextEncoder | None = None,
) -> Clustered:
    """Puts items into clusters, from training events, words or the user's vectors.

    Args:
        found: items and events.
        split: which events are training events; the others are ignored.
        config: how to cluster.
        report: receives messages about slow steps and unusual data.
        encode: makes vectors of texts, for --cluster_vectors text.

    Raises:
        UserError: the user's vectors or clusters are invalid.
    """
    users = split.training_users()
    item = found.item[split.in_training(found.offsets)]
    vectors = _vectors(found, users, item, config, report, encode)
    count = np.bincount(item, minlength=len(found.items))
    cluster, num_clusters = _clusters(found, vectors, count, config, report)
    slot, cluster_size = place(cluster, num_clusters, config.free_share)
    sizes = np.bincount(cluster, minlength=num_clusters)
    info = ClustersInfo(
        method="file" if config.cluster_file else config.clusters,
        vector_width=vectors.shape[1],
        seed=config.seed,
        **balance(sizes, cluster_size),
        consecutive_share=consecutive_share(cluster, item, users),
        random_share=random_share(sizes, item, users),
        vectors=config.cluster_vectors,
        spherical=config.spherical,
    )
    return Clustered(slot, count, vectors, num_clusters, cluster_size, info)


def _clusters(
    found: Interactions,
    vectors: Float32[np.ndarray, "item vector_width"],
    count: Int64[np.ndarray, " item"],
    config: PrepareConfig,
    report: Callable[[str], None],
) -> tuple[np.ndarray, int]:
    """Returns the cluster of every item, and the number of clusters."""
    num_items = len(found.items)
    if config.cluster_file is not None:
        ids = found.items["item"]
        return given_clusters(config.cluster_file, config.item_column, ids)
    num_clusters = config.num_clusters or default_num_clusters(num_items)
    with _reported_steps(num_items, num_clusters, vectors.shape[1], report) as step:
        cluster = assign(
            config.clusters, vectors, count, num_clusters, config.seed,
            config.spherical, step,
        )  # fmt: skip
    return cluster, num_clusters


def _vectors(
    found: Interactions,
    users: np.ndarray,
    item: np.ndarray,
    config: PrepareConfig,
    report: Callable[[str], None],
    encode: TextEncoder | None,
) -> Float32[np.ndarray, "item vector_width"]:
    width, seed = config.vector_width, config.seed
    if config.cluster_vectors in ("words", "text"):
        texts = [text or "" for text in found.items["text"].to_pylist()]
        require(
            any(texts),
            f"--cluster_vectors is {config.cluster_vectors}, but no item has a text: "
            "give titles with --items and --title_column",
        )
        if config.cluster_vectors == "words":
            return word_vectors(texts, width, seed)
        assert encode is not None, "the command passes an encoder for texts"
        return encode(texts, width)
    if config.cluster_vectors != "interactions":
        path = Path(config.cluster_vectors)
        return own_vectors(path, found.items["item"], config, report)
    num_users, num_items = len(found.user_ids), len(found.items)
    if num_items >= _LARGE:
        needed = item_vectors_bytes(num_users, num_items, len(item), width)
        report(f"item vectors need about {needed / 1e9:.1f} GB")
    return item_vectors(users, item, num_users, num_items, width, seed)


@contextlib.contextmanager
def _reported_steps(
    num_items: int, num_clusters: int, width: int, report: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
    """Reports memory, and counts the steps."""
    if num_items < _LARGE:
        yield lambda step: None
        return
    report(f"clusters need {kmeans_bytes(num_items, width) / 1e9:.1f} GB")
    steps = num_steps(num_clusters)
    with Counted("clustering", steps, "steps") as counted:
        yield lambda step: counted.update()
