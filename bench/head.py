"""Times the output head against the size of the catalog, beside full softmaxes.

A step is a loss and all its gradients; with the update, the optimizer's update too.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bench.catalogs import popularity, random_head, slots_of, zipf_items
from bench.clock import exponent
from bench.contender import Contender, Measured, measure_each, race
from bench.head_ours import STEP, UPDATE, HierarchicalContenders
from bench.head_peers import CHUNKED, TORCH, WHOLE, JaxPeers, torch_peer
from bench.machine import free_bytes
from bench.record import OURS, Curve, ResultRow, Section, find, ratio
from bench.step_options import HeadOptions
from bench.train_torch import has_torch
from eqids.data.clustering.num_clusters import default_num_clusters

MEANINGS = {
    "ratio_1m": "time of the chunked full softmax / ours, 1 million x 64",
    "ratio_1m_update": "the same with the optimizer's update of both",
    "exponent": "power of the catalog's size by which our time grows, at width 64",
    "exponent_update": "the same with the update",
    "ratio_10m_1m": "our time with the update, 10 million x 32 / 1 million x 32",
    "temp_bytes_1m": "temporaries of ours, forward + backward, 1 million x 64",
    "us_per_target_1m": "microseconds of ours for one of its targets",
}


@dataclass(frozen=True)
class HeadCase:
    """The sizes of a catalog, and whether peers are timed on it too."""

    num_items: int
    num_clusters: int
    width: int
    peers: bool = True

    def __str__(self) -> str:
        return f"{self.num_items:,} x {self.width}, {self.num_clusters:,} clusters"


def measure(options: HeadOptions) -> Section:
    """Returns the timings of every catalog."""
    cases = _cases(options)
    rows, notes = measure_each(measure_case, options, cases)
    notes = [
        f"{options.targets:,} targets drawn by Zipf's law, independent of clusters; us "
        "each: microseconds a target. Full softmaxes have one level, and only time and "
        "memory are compared.",
        "Updates: Adam on the active clusters for ours, AdamW on all for the peer.",
        f"huge pages: {os.environ.get('GLIBC_TUNABLES', 'the default of the system')}.",
        *([] if has_torch() else ["torch is left out: it is not installed."]),
        *notes,
    ]
    return Section("head", _keys(rows), MEANINGS, rows, notes, _curve(rows))


def _cases(options: HeadOptions) -> list[HeadCase]:
    sizes = [(10**power, 64) for power in (4, 5, 6, 7)] + [(10**6, 32), (10**7, 32)]
    if options.quick:
        sizes = [(4_000, 64), (16_000, 64)]
    factor = options.clusters_times_sqrt
    cases = [HeadCase(n, _num_clusters(n, factor), width) for n, width in sizes]
    if options.sweep_clusters:
        num_items = 16_000 if options.quick else 10**6
        cases += [
            HeadCase(num_items, _num_clusters(num_items, times), 64, peers=False)
            for times in (1.0, 2.0, 4.0, 8.0)
        ]
    return cases


def _num_clusters(num_items: int, factor: float | None) -> int:
    if factor is None:
        return default_num_clusters(num_items)
    return min(num_items, max(1, round(factor * num_items**0.5)))


def measure_case(options: HeadOptions, catalog: HeadCase) -> Measured:
    """Measures one catalog in this process."""
    head = random_head(
        catalog.num_items, catalog.num_clusters, catalog.width, options.seed
    )
    rng = np.random.default_rng(options.seed)
    shape = options.targets, catalog.width
    hidden = jnp.array(rng.standard_normal(shape, dtype=np.float32))
    item = zipf_items(catalog.num_items, options.targets, options.seed)
    often = popularity(catalog.num_items, options.seed)
    ours = HierarchicalContenders(head, hidden, slots_of(head, item), often)
    contenders, notes = [ours.step(), ours.update()], list[str]()
    if catalog.peers:
        vectors = np.asarray(head.table)[np.asarray(head.valid)]
        peers = _peers(options, vectors, hidden, jnp.array(item))
        more, notes = _that_fit(peers, str(catalog))
        contenders += more
    case = {
        "items": catalog.num_items,
        "width": catalog.width,
        "clusters": catalog.num_clusters,
    }
    return race(case, options.targets, contenders, options), notes


@dataclass(frozen=True)
class _Peer:
    """A contender to make, and its bytes: held always, and added while it runs."""

    name: str
    make: Callable[[], Contender]
    held: int
    added: int


def _peers(
    options: HeadOptions,
    vectors: Float[np.ndarray, "item item_width"],
    hidden: Float[Array, "target item_width"],
    item: Int[Array, " target"],
) -> list[_Peer]:
    jax_peers = JaxPeers(vectors, options.chunk, hidden, item)
    table, logits = vectors.nbytes, 4 * len(vectors) * len(hidden)
    peers = [
        _Peer(CHUNKED, jax_peers.chunked, 0, table),
        _Peer(f"{CHUNKED}, {UPDATE}", jax_peers.update, 2 * table, table),
        _Peer(WHOLE, jax_peers.whole, 0, table + 2 * logits),
    ]
    if has_torch():
        make = functools.partial(torch_peer, vectors, hidden, item)
        peers.append(_Peer(TORCH, make, table, table + 4 * logits))
    return peers


def _that_fit(peers: Sequence[_Peer], where: str) -> tuple[list[Contender], list[str]]:
    """Makes the peers that fit into memory, and notes the others."""
    free, contenders, notes = int(0.7 * free_bytes()), [], []
    for peer in peers:
        if peer.held + peer.added <= free:
            contenders.append(peer.make())
            free -= peer.held
        else:
            notes.append(
                f"{peer.name} is left out at {where}: it needs about "
                f"{(peer.held + peer.added) / 1e9:.1f} GB more, of which "
                f"{free / 1e9:.1f} GB are free."
            )
    return contenders, notes


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    def at(
        name: str, work: str, items: int = 10**6, width: int = 64
    ) -> ResultRow | None:
        return find(rows, name, work, items=items, width=width)

    def growth(work: str) -> float:
        sizes = sorted({int(row.case["items"]) for row in rows})
        found = [row for size in sizes if (row := at(OURS, work, size))]
        times = [row.seconds.median for row in found]
        return exponent([float(row.case["items"]) for row in found], times)

    anchor = at(OURS, STEP)
    return {
        "ratio_1m": ratio(at(CHUNKED, STEP), anchor),
        "ratio_1m_update": ratio(at(CHUNKED, UPDATE), at(OURS, UPDATE)),
        "exponent": growth(STEP),
        "exponent_update": growth(UPDATE),
        "ratio_10m_1m": ratio(at(OURS, UPDATE, 10**7, 32), at(OURS, UPDATE, 10**6, 32)),
        "temp_bytes_1m": None if anchor is None else anchor.temp_bytes,
        "us_per_target_1m": None if anchor is None else 1e6 * anchor.each,
    }


def _curve(rows: Sequence[ResultRow]) -> Curve:
    """Milliseconds at width 64 against the number of items."""
    series: dict[str, dict[float, float]] = {}
    for row in rows:
        if row.case["width"] == 64:
            points = series.setdefault(f"{row.name}, {row.work}", {})
            # The default number of clusters comes first, then the sweep.
            points.setdefault(float(row.case["items"]), 1000 * row.seconds.median)
    return Curve(
        title=f"One step of the output head, {rows[0].units:,} targets, width 64",
        x="items in the catalog",
        y="ms",
        series={name: list(points.items()) for name, points in series.items()},
    )
