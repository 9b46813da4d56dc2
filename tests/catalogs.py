"""Catalogs and softmaxes as arrays, small enough for brute force."""

import numpy as np

from eqids.data.catalog.lineage import Change, Lineage
from eqids.data.catalog.living_catalog import Catalog
from eqids.migrate.remap import remap_arrays

WIDTH = 3
MU, SEEN = "optimizer/mu/softmax/table", "optimizer/seen"


def make_catalog(
    num_items: int = 7, num_clusters: int = 3, cluster_size: int = 3, seed: int = 0
) -> Catalog:
    """Items 0, 1, … in places at random."""
    rng = np.random.default_rng(seed)
    slot = np.sort(rng.permutation(num_clusters * cluster_size)[:num_items])
    return Catalog(
        items=np.arange(num_items),
        slot=slot.astype(np.int32),
        retired=np.zeros(num_items, np.bool_),
        count=rng.integers(0, 9, num_items),
        vectors=rng.standard_normal((num_items, WIDTH)).astype(np.float32),
        num_clusters=num_clusters,
        cluster_size=cluster_size,
    )


def halved(catalog: Catalog, cluster: int) -> tuple[Catalog, Change]:
    """The catalog after one cluster is divided in two."""
    return catalog.divide(np.array([cluster]), catalog.cluster_size)


def make_arrays(catalog: Catalog, seed: int = 0) -> dict[str, np.ndarray]:
    """A softmax with moments and counters of its clusters."""
    rng = np.random.default_rng(seed)
    places = (catalog.num_clusters, catalog.cluster_size)
    shapes = {
        "params/softmax/table": (*places, WIDTH),
        "params/softmax/bias": places,
        "params/softmax/cluster_table": (places[0], WIDTH),
        "params/softmax/cluster_bias": places[:1],
        MU: (*places, WIDTH),
    }
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    seen = rng.integers(1, 100, places[0]).astype(np.int32)
    return {**arrays, SEEN: seen, "params/llama/norm": np.ones(places[0], np.float32)}


def one_step(
    arrays: dict[str, np.ndarray], valid: np.ndarray, change: Change
) -> dict[str, np.ndarray]:
    return remap_arrays(arrays, Lineage(valid, ("00" * 32,), (change,)), 1, "params/")


def log_probs(
    arrays: dict[str, np.ndarray], valid: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """Every slot's log-probability for each query, by brute force in float64."""
    table, bias, cluster_table, cluster_bias = (
        arrays[f"params/softmax/{name}"].astype(np.float64)
        for name in ("table", "bias", "cluster_table", "cluster_bias")
    )
    logits = np.where(valid, np.einsum("crw,qw->qcr", table, query) + bias, -np.inf)
    top = np.einsum("cw,qw->qc", cluster_table, query) + cluster_bias
    top = np.where(valid.any(axis=1), top, -np.inf)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(logits).sum(axis=2, keepdims=True))
        inside = logits - np.where(np.isfinite(total), total, 0)
        top = top - np.log(np.exp(top).sum(axis=1, keepdims=True))
    joint = np.where(valid, top[..., None] + inside, -np.inf)
    return joint.reshape(len(query), -1)
