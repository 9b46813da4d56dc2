"""Times exact top-k beside full scoring and faiss, and counts visited clusters."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from bench.catalogs import cluster_perplexity, queries, random_head
from bench.contender import (
    CompiledProgram,
    Contender,
    Measured,
    compiled,
    measure_each,
    race,
)
from bench.record import OURS, CaseNumbers, Curve, ResultRow, Section, find, ratio
from bench.search_options import TopkOptions
from eqids.checkpoints import resolve
from eqids.model import HierarchicalSoftmax

FULL, FAISS = "full scoring, top_k", "faiss IndexFlatIP"
PEAKED, MIDDLE, FLATTEST = 8.0, 126.0, 0.99
"""Cluster perplexities; the last as a share of the number of clusters."""
BATCHES, KS = (32, 1), (10, 100)

MEANINGS = {
    "ratio_1m": "time of full scoring / ours: 1 million x 64 in 4,000 clusters, "
    "cluster perplexity 8, batch 32, k 10",
    "ratio_1m_1000": "the same in 1,000 clusters",
    "ratio_1m_faiss": "time of faiss / ours, 1 million x 64 in 4,000 clusters",
    "ratio_1m_1000_faiss": "the same in 1,000 clusters",
    "ratio_flat": "ours / full scoring, the worst of the flattest cases",
}


@dataclass(frozen=True)
class TopkCase:
    """A synthetic catalog, and the cluster perplexities of its queries."""

    num_items: int
    num_clusters: int
    width: int
    perplexities: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.num_items:,} x {self.width}, {self.num_clusters:,} clusters"


def measure(options: TopkOptions) -> Section:
    """Returns the timings of every catalog, batch size and k."""
    cases = _cases(options)
    rows, _ = measure_each(measure_case, options, cases)
    return Section("topk", _keys(rows), MEANINGS, rows, _notes(rows), _curve(rows))


def _cases(options: TopkOptions) -> list[TopkCase | Path]:
    cases: list[TopkCase | Path] = [
        TopkCase(1_000_000, num_clusters, 64, (PEAKED, MIDDLE, FLATTEST * num_clusters))
        for num_clusters in (4_000, 1_000)
    ]
    if options.quick:
        cases = [TopkCase(100_000, 512, 32, (PEAKED, FLATTEST * 512))]
    # Resolved first, so that a wrong path is found before anything is measured.
    return cases + ([resolve(options.checkpoint)] if options.checkpoint else [])


def measure_case(options: TopkOptions, catalog: TopkCase | Path) -> Measured:
    """Measures one catalog in this process."""
    if isinstance(catalog, Path):
        from bench.trained import trained_head

        head, hidden = trained_head(catalog, options.data_dir, BATCHES[0])
        hiddens = [hidden]
    else:
        size = catalog.num_items, catalog.num_clusters, catalog.width
        head = random_head(*size, options.seed)
        hiddens = [
            queries(head, BATCHES[0], perplexity, options.seed)
            for perplexity in catalog.perplexities
        ]
    index, rows = _faiss_index(head), list[ResultRow]()
    for batch in BATCHES:
        for k in KS[:1] if options.quick else KS:
            search = TopkContenders(head, index, hiddens[0][:batch], k)
            for hidden in hiddens:
                contenders = search.contenders(hidden[:batch])
                case = _case(head, hidden[:batch], k)
                rows += race(case, batch, contenders, options)
    return rows, []


class TopkContenders:
    """All ways to find the best k items for a batch of queries, compiled once."""

    def __init__(
        self,
        head: HierarchicalSoftmax,
        index: Any,
        hidden: Float[Array, "query item_width"],
        k: int,
    ):
        """Compiles them.

        Args:
            head: the catalog.
            index: from `_faiss_index`, or None.
            hidden: queries of the shape to search.
            k: number of items.
        """
        self.head, self.index, self.k = head, index, k
        self.ours = compiled(lambda head, q: head.top_k(q, k), head, hidden)
        self.full = compiled(lambda head, q: _full_top_k(head, q, k), head, hidden)

    def contenders(self, hidden: Float[Array, "query item_width"]) -> list[Contender]:
        """Returns ours, full scoring and, with an index, faiss; they take no queries
        but these."""
        found = self.ours.call(self.head, hidden)
        expected = self.full.call(self.head, hidden)
        same = [
            set(np.asarray(a)) == set(np.asarray(b))
            for a, b in zip(found.slots, expected, strict=True)
        ]
        visited = float(np.median(found.visited))
        facts = {"visited": visited, "same": float(np.mean(same))}
        work = f"top {self.k}"

        def runs(program: CompiledProgram) -> Callable[[], None]:
            return lambda: jax.block_until_ready(program.call(self.head, hidden))

        contenders = [
            Contender(OURS, work, runs(self.ours), self.ours, facts),
            Contender(FULL, work, runs(self.full), self.full),
        ]
        if self.index is not None:
            flat = np.asarray(hidden)
            flat = np.concatenate([flat, np.ones_like(flat[:, :1])], axis=1)
            search = functools.partial(self.index.search, flat, self.k)
            contenders.append(Contender(FAISS, work, search, device="cpu"))
        return contenders


def _case(
    head: HierarchicalSoftmax, hidden: Float[Array, "query item_width"], k: int
) -> CaseNumbers:
    return {
        "items": int(head.valid.sum()),
        "width": head.table.shape[2],
        "clusters": head.valid.shape[0],
        "perplexity": round(cluster_perplexity(head, hidden), 1),
        "batch": len(hidden),
        "k": k,
    }


def _full_top_k(
    head: HierarchicalSoftmax, hidden: Float[Array, "query item_width"], k: int
) -> Int[Array, "query k"]:
    return jax.lax.top_k(head.log_probs(hidden), k)[1]


def _faiss_index(head: HierarchicalSoftmax) -> Any:
    """Returns a faiss index of [vector, bias], or None without faiss."""
    if importlib.util.find_spec("faiss") is None:
        return None
    faiss = importlib.import_module("faiss")
    valid = np.asarray(head.valid)
    vectors, bias = np.asarray(head.table)[valid], np.asarray(head.bias)[valid]
    index = faiss.IndexFlatIP(vectors.shape[1] + 1)
    index.add(np.concatenate([vectors, bias[:, None]], axis=1))
    return index


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    def at(name: str, clusters: int) -> ResultRow | None:
        return find(rows, name, "top 10", items=1_000_000, width=64,
                    clusters=clusters, perplexity=PEAKED, batch=32)  # fmt: skip

    flattest = [
        slower
        for row in rows
        if row.name == OURS and row.case["perplexity"] >= 0.98 * row.case["clusters"]
        if (slower := ratio(row, find(rows, FULL, row.work, **row.case))) is not None
    ]
    return {
        "ratio_1m": ratio(at(FULL, 4_000), at(OURS, 4_000)),
        "ratio_1m_1000": ratio(at(FULL, 1_000), at(OURS, 1_000)),
        "ratio_1m_faiss": ratio(at(FAISS, 4_000), at(OURS, 4_000)),
        "ratio_1m_1000_faiss": ratio(at(FAISS, 1_000), at(OURS, 1_000)),
        "ratio_flat": max(flattest),
    }


def _notes(rows: Sequence[ResultRow]) -> list[str]:
    notes = [
        "visited: clusters whose items were scored, the median of the queries; same: "
        "share of queries for which full scoring finds the same items; us each: "
        "microseconds a query.",
    ]
    if any(row.name == FAISS for row in rows):
        return notes + [
            "faiss ranks by the inner product of vectors and biases, which is not the "
            "joint probability; so only its speed is compared."
        ]
    return notes + ["faiss is left out: it is not installed (pip install faiss-cpu)."]


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Milliseconds of the first batch size and k against the peakedness."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if (row.case["batch"], row.case["k"]) == (BATCHES[0], KS[0]):
            name = f"{row.name}, {row.case['clusters']:,} clusters"
            point = float(row.case["perplexity"]), 1000 * row.seconds.median
            series.setdefault(name, []).append(point)
    return Curve(
        f"Top {KS[0]} of {rows[0].case['items']:,} items, {BATCHES[0]} queries",
        "cluster perplexity of the queries", "ms", series,
    )  # fmt: skip
