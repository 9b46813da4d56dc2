"""The softmax of a large catalog: train steps, and exact top-k beside full scoring."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bench.catalogs import SPREAD, popularity, zipf_items
from bench.clock import Spread, alternate
from bench.contender import Contender
from bench.gpu.gpu_cases import CatalogCase
from bench.gpu.part_context import GpuRow, PartContext
from bench.gpu.running_out import ran_out
from bench.head_ours import HierarchicalContenders
from bench.topk import FULL, TopkContenders
from bench.train_torch import has_torch
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.model import HierarchicalSoftmax

TORCH = "torch.topk"
KS = 10, 100
_REPETITIONS, _SECONDS = 10, 4.0


def measure(case: CatalogCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields rows for top-k, then for steps: a step's optimizer state comes last."""
    head = device_head(case, context.seed)
    yield from _searches(case, head, context)
    rng = np.random.default_rng(context.seed)
    shape = case.targets, case.width
    hidden = jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
    slot = jnp.asarray(zipf_items(case.num_items, case.targets, context.seed))
    often = popularity(case.num_items, context.seed)
    ours = HierarchicalContenders(head, hidden, slot, often)
    del head  # An update donates it.
    for make in (ours.step, ours.update, ours.dense_update):
        yield _timed(case, make, context)


def _timed(case: CatalogCase, make: Any, context: PartContext) -> GpuRow:
    """The row of one kind of step; one that runs out of memory says so."""
    work = make.__name__.replace("_", " ")
    try:
        contender: Contender = make()
        seconds = context.budget(0.2, _SECONDS)
        timing = alternate({work: contender.run}, _REPETITIONS, seconds)[work]
    except Exception as error:
        if not ran_out(error):
            raise
        return GpuRow(f"{work}, {case}", note="out of memory")
    spread, program = Spread.of(timing.wall), contender.program
    assert program is not None
    numbers = {
        "ms": 1e3 * spread.median,
        "targets/s": case.targets / spread.median,
        "active clusters": contender.facts.get("active"),
        "temporaries GB": program.temp_bytes and program.temp_bytes / 1e9,
        "compile s": program.compile_seconds,
    }
    return GpuRow(f"{work}, {case}", numbers)


def _searches(
    case: CatalogCase, head: HierarchicalSoftmax, context: PartContext
) -> Iterator[GpuRow]:
    """Exact top-k, full scoring and torch; `same`: the share of equal answers."""
    query = jax.random.normal(
        jax.random.key(context.seed), (case.queries, case.width), jnp.float32
    )
    for k in KS:
        search = TopkContenders(head, None, query, k)
        makers: dict[str, Callable[[], Contender]] = {}
        try:
            # This scores all items once, to compare the answers.
            for one in search.contenders(query):
                makers[one.name] = partial(_given, one)
        except Exception as error:
            if not ran_out(error):
                raise
            yield GpuRow(f"{FULL}, top {k}, {case}", note="out of memory")
        if has_torch():
            makers[TORCH] = partial(torch_top_k, head, query, k)
        for name, make in makers.items():
            yield _searched(f"{name}, top {k}, {case}", case, make, context)


def _given(one: Contender) -> Contender:
    return one


def _searched(
    work: str, case: CatalogCase, make: Callable[[], Contender], context: PartContext
) -> GpuRow:
    """The row of one way to search; one that runs out of memory says so."""
    try:
        contender = make()
        seconds = context.budget(0.05, _SECONDS)
        timing = alternate({work: contender.run}, _REPETITIONS, seconds)[work]
    except Exception as error:
        if not ran_out(error):
            raise
        return GpuRow(work, note="out of memory")
    spread = Spread.of(timing.wall)
    numbers = {"ms": 1e3 * spread.median, "queries/s": case.queries / spread.median}
    return GpuRow(work, {**numbers, **contender.facts})


def catalog_shape(case: CatalogCase) -> tuple[int, int, int]:
    """Returns clusters, places of a cluster, and the width of a vector."""
    num_clusters = default_num_clusters(case.num_items)
    return num_clusters, -(-case.num_items // num_clusters), case.width


def device_head(case: CatalogCase, seed: int) -> HierarchicalSoftmax:
    """Returns a catalog like `bench.catalogs.random_head`, made on the device.

    Items are numbered in the order of slots; the last places may be empty.
    """
    num_clusters, size, width = catalog_shape(case)
    valid = np.arange(num_clusters * size).reshape(num_clusters, size) < case.num_items
    # Width 1 at first: random tables of the full width would double the memory.
    head = HierarchicalSoftmax(
        num_clusters, size, 1, valid=valid, key=jax.random.key(seed)
    )

    @partial(jax.jit, static_argnums=0)
    def tables(shape: tuple[int, int, int], key: Any) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        clusters = jax.random.normal(first, (shape[0], shape[2])) / shape[2] ** 0.5
        around = SPREAD / shape[2] ** 0.5 * jax.random.normal(second, shape)
        return clusters[:, None] + around, clusters

    made = tables((num_clusters, size, width), jax.random.key(seed + 1))
    return eqx.tree_at(lambda h: (h.table, h.cluster_table), head, made)


def torch_top_k(
    head: HierarchicalSoftmax, query: Float[Array, "query item_width"], k: int
) -> Contender:
    """Returns torch's scoring of all items, by the same probability, and its topk."""
    torch = importlib.import_module("torch")
    table, bias, clusters, cluster_bias, valid, queries = (
        torch.from_dlpack(x) if x.dtype != bool else torch.from_dlpack(x * 1).bool()
        for x in (head.table, head.bias, head.cluster_table, head.cluster_bias,
                  head.valid, query)
    )  # fmt: skip
    used = valid.any(-1)

    def best() -> Any:
        logits = torch.einsum("qw,crw->qcr", queries, table) + bias
        logits = logits.masked_fill(~valid, -torch.inf).log_softmax(-1)
        logits = logits.masked_fill(~valid, -torch.inf)  # an empty cluster is NaN
        own = (queries @ clusters.T + cluster_bias).masked_fill(~used, -torch.inf)
        own = own.log_softmax(-1)
        return torch.topk((logits + own[..., None]).flatten(1), k)

    def run() -> None:
        best()
        if queries.is_cuda:
            torch.cuda.synchronize()

    same = _same(best().indices, head, query, k)
    return Contender(TORCH, f"top {k}", run, facts={"same": same})


def _same(found: Any, head: HierarchicalSoftmax, query: Array, k: int) -> float:
    """The share of queries for which torch finds the same items as ours."""
    ours: Int[np.ndarray, "query k"] = np.asarray(head.top_k(query, k).slots)
    pairs = zip(ours, found.cpu().numpy(), strict=True)
    return float(np.mean([set(a) == set(b) for a, b in pairs]))
