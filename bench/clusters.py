"""Measures the clustering of a large catalog: `python -m bench.clusters`.

    python -m bench.clusters --items 1000000 --json clusters.json
    python -m bench.clusters --items 10000000 --width 64

Vectors are drawn around random topics, in random order.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.machine import peak_bytes
from eqids.cli import parse, run_as_process
from eqids.config import ONE_OR_MORE, check_flags
from eqids.data.clustering.cluster_sizes import assign
from eqids.data.clustering.kmeans import kmeans_bytes, num_steps
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.data.clustering.quality import balance
from eqids.io.atomic import write_json

_CHUNK = 2**18
_SPREAD = 0.75
"""Deviation of items around their topic, relative to that of topics."""


@dataclass(frozen=True)
class ClusterOptions:
    """The flags of `python -m bench.clusters`."""

    items: int = 1_000_000
    """Number of items to cluster."""
    width: int = 64
    """Size of their vectors."""
    clusters: int | None = None
    """Number of clusters; by default as many as `prepare` chooses."""
    spherical: bool = False
    """Compare vectors by direction."""
    seed: int = 0
    """Seed of vectors and clustering."""
    json: Path | None = None
    """Write the result to this JSON file."""

    def __post_init__(self) -> None:
        check_flags(self, "items width clusters", ONE_OR_MORE)


@dataclass(frozen=True)
class ClusterResult:
    """Time, memory and quality of a clustering."""

    items: int
    """Number of items."""
    width: int
    """Size of their vectors."""
    clusters: int
    """Number of clusters."""
    seconds: float
    """Time of clustering, without drawing the vectors."""
    stated_bytes: int
    """Memory as `prepare` states it in advance."""
    peak_bytes: int | None
    """Peak memory of the process, libraries and vectors included; on Linux only."""
    capacity: int
    """Number of places in a cluster."""
    largest: int
    """Number of items in the largest cluster."""
    smallest: int
    """Number of items in the smallest cluster."""
    empty_share: float
    """Share of places that hold no item."""
    variance_inside: float
    """Share of the vectors' variance that is left inside clusters."""
    topic_share: float
    """Share of pairs of items of one topic that share a cluster."""


def measure(options: ClusterOptions) -> ClusterResult:
    """Draws a catalog and clusters it as `prepare` does."""
    num_items = options.items
    num_clusters = options.clusters or default_num_clusters(num_items)
    vectors, topic = planted(num_items, options.width, num_clusters, options.seed)
    counts = np.random.default_rng(options.seed).zipf(1.5, num_items).clip(0, 10**6)
    start = time.perf_counter()
    with tqdm(total=num_steps(num_clusters), unit="step", disable=None) as bar:

        def report(step: int) -> None:
            bar.update()

        cluster = assign(
            "kmeans", vectors, counts, num_clusters, options.seed, options.spherical,
            report,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    sizes = np.bincount(cluster, minlength=num_clusters)
    cluster_size = -(-num_items // num_clusters)
    figures = balance(sizes, cluster_size)
    return ClusterResult(
        items=num_items,
        width=options.width,
        clusters=num_clusters,
        seconds=seconds,
        stated_bytes=kmeans_bytes(num_items, options.width),
        peak_bytes=peak,
        capacity=cluster_size,
        largest=figures["largest"],
        smallest=figures["smallest"],
        empty_share=figures["empty_share"],
        variance_inside=variance_inside(vectors, cluster, num_clusters),
        topic_share=topic_share(cluster, topic),
    )


def planted(
    num_items: int, width: int, num_topics: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws vectors around topics; 16 topics each lie around a larger one.

    Returns:
        float32 [item, width], and int32 [item], the topic of each.
    """
    rng = np.random.default_rng(seed)
    above = rng.standard_normal((-(-num_topics // 16), width), np.float32)
    centre = rng.standard_normal((num_topics, width), np.float32)
    centre += above[np.arange(num_topics) // 16]
    topic = rng.integers(0, num_topics, num_items, np.int32)
    vectors = np.empty((num_items, width), np.float32)
    for start in range(0, num_items, _CHUNK):
        part = vectors[start : start + _CHUNK]
        rng.standard_normal(out=part, dtype=np.float32)
        part *= _SPREAD
        part += centre[topic[start : start + _CHUNK]]
    return vectors, topic


def variance_inside(
    vectors: np.ndarray, cluster: np.ndarray, num_clusters: int
) -> float:
    """Returns the share of the vectors' variance that is inside clusters.

    Args:
        vectors: float32 [item, width].
        cluster: int [item].
        num_clusters: number of clusters.
    """
    sizes = np.bincount(cluster, minlength=num_clusters)
    total = between = 0.0
    for column in vectors.T:
        sums = np.bincount(cluster, column, num_clusters)
        held = len(column) * float(np.mean(column, dtype=np.float64)) ** 2
        total += float(np.einsum("i,i->", column, column, dtype=np.float64)) - held
        between += float((sums**2 / np.maximum(sizes, 1)).sum()) - held
    return 1 - between / total


def topic_share(cluster: np.ndarray, topic: np.ndarray) -> float:
    """Returns the share of pairs of items of one topic that share a cluster.

    The pairs are neighbours in an order by topic that is random otherwise.

    Args:
        cluster: int [item].
        topic: int [item].
    """
    order = np.argsort(topic, kind="stable")
    cluster, topic = cluster[order], topic[order]
    together = (cluster[1:] == cluster[:-1])[topic[1:] == topic[:-1]]
    return float(together.mean()) if len(together) else 0.0


def table(result: ClusterResult) -> str:
    """Returns the result in a few lines."""
    r = result
    peak = "unknown" if r.peak_bytes is None else f"{r.peak_bytes / 1e9:.2f} GB"
    return "\n".join(
        [
            f"{r.items:,} items x {r.width} into {r.clusters:,} clusters in "
            f"{r.seconds:.1f} s",
            f"memory: {peak} at the peak, {r.stated_bytes / 1e9:.2f} GB stated in "
            "advance (libraries apart)",
            f"places: clusters of {r.smallest:,} to {r.largest:,} items in "
            f"{r.capacity:,} places, {r.empty_share:.2%} empty",
            f"quality: {r.variance_inside:.3f} of the variance is inside clusters, "
            f"{r.topic_share:.1%} of pairs of one topic share a cluster",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures once, and prints and writes the result."""
    options = parse(ClusterOptions, argv, "bench.clusters", __doc__)
    result = measure(options)
    print(table(result))
    if options.json is not None:
        write_json(options.json, asdict(result))


if __name__ == "__main__":
    run_as_process(main)
