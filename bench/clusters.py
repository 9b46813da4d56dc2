"""Time and memory of clustering a large catalog: `python -m bench.clusters`.

    python -m bench.clusters --items 1000000 --json clusters.json
    python -m bench.clusters --items 10000000 --width 64

Vectors are drawn around planted topics, in an order that says nothing of them.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.machine import peak_bytes
from eqids.cli import parse, run
from eqids.config import require
from eqids.data.clustering.cluster_sizes import assign, default_num_clusters
from eqids.data.clustering.kmeans import kmeans_bytes, num_steps
from eqids.data.clustering.quality import balance
from eqids.io.atomic import write_json

_CHUNK = 2**18
_SPREAD = 0.75
"""Of items around their topic, relative to that of topics."""


@dataclass(frozen=True)
class ClusterOptions:
    """What `python -m bench.clusters` is told."""

    items: int = 1_000_000
    """Items to cluster."""
    width: int = 64
    """Size of their vectors."""
    clusters: int | None = None
    """Clusters; by default as many as `prepare` chooses."""
    spherical: bool = False
    """Compare vectors by direction."""
    seed: int = 0
    """Seeds vectors and clustering."""
    json: Path | None = None
    """Write the result there."""

    def __post_init__(self) -> None:
        for name in ("items", "width", "clusters"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} is {value}, wanted 1 up")


@dataclass(frozen=True)
class ClusterResult:
    """What clustering took and gave."""

    items: int
    """Items."""
    width: int
    """Size of their vectors."""
    clusters: int
    """Clusters."""
    seconds: float
    """Time of clustering, without that of drawing vectors."""
    stated_bytes: int
    """Memory as it is told in advance."""
    peak_bytes: int | None
    """The most memory that the process held, libraries and vectors included; known
    on Linux only."""
    capacity: int
    """Places in a cluster."""
    largest: int
    """Items of the largest cluster."""
    smallest: int
    """Items of the smallest cluster."""
    empty_share: float
    """Share of places that hold no item."""
    variance_inside: float
    """Share of the vectors' variance that is left inside clusters."""
    topic_share: float
    """Share of pairs of one topic (neighbours in a random order) in one cluster."""


def measure(options: ClusterOptions) -> ClusterResult:
    """Draws a catalog and clusters it as `prepare` does."""
    num_items = options.items
    num_clusters = options.clusters or default_num_clusters(num_items)
    vectors, topic = planted(num_items, options.width, num_clusters, options.seed)
    counts = np.random.default_rng(options.seed).zipf(1.5, num_items).clip(0, 10**6)
    start = time.perf_counter()
    with tqdm(total=num_steps(num_clusters), unit="step", disable=None) as bar:

        def told(step: int) -> None:
            bar.update()

        cluster = assign(
            "kmeans", vectors, counts, num_clusters, options.seed, options.spherical,
            told,
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
    """Vectors around topics that lie around 1 in 16 larger topics.

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
    """Share of the variance of vectors [item, width] that clusters leave inside.

    Args:
        vectors: float32 [item, width].
        cluster: int [item].
        num_clusters: how many there are.
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
    """Share of neighbours in an order by topic that share a cluster.

    Args:
        cluster: int [item].
        topic: int [item].
    """
    order = np.argsort(topic, kind="stable")
    cluster, topic = cluster[order], topic[order]
    together = (cluster[1:] == cluster[:-1])[topic[1:] == topic[:-1]]
    return float(together.mean()) if len(together) else 0.0


def table(result: ClusterResult) -> str:
    """The result in a few lines."""
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
    """Measures once and prints, or writes, what it took."""
    options = parse(ClusterOptions, argv, "bench.clusters", __doc__)
    result = measure(options)
    print(table(result))
    if options.json is not None:
        # Not before, since it brings jax, whose memory is not that of clustering.

        write_json(options.json, asdict(result))


if __name__ == "__main__":
    run(main)
