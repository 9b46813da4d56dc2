"""Synthetic catalogs, targets and queries, of which what matters is known."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqids.model import HierarchicalSoftmax

SPREAD = 0.75
"""Of items around their cluster, relative to that of clusters: with it a query whose
cluster perplexity is 8 finds its 10 best in about 8 of 1,000 clusters."""


def random_head(
    num_items: int, num_clusters: int, width: int, seed: int
) -> HierarchicalSoftmax:
    """Returns a catalog of items that lie around their clusters' vectors.

    Clusters differ by one item at most. Queries of length `sqrt(width)` get cluster
    logits of variance 1.

    Args:
        num_items: valid places.
        num_clusters: clusters.
        width: of the vectors.
        seed: of the vectors.
    """
    rng = np.random.default_rng(seed)
    cluster_size = -(-num_items // num_clusters)
    sizes = np.full(num_clusters, num_items // num_clusters)
    sizes[: num_items % num_clusters] += 1
    valid = np.arange(cluster_size) < sizes[:, None]
    scale = np.float32(width**-0.5)
    clusters = scale * rng.standard_normal((num_clusters, width), dtype=np.float32)
    table = rng.standard_normal((num_clusters, cluster_size, width), dtype=np.float32)
    table *= SPREAD * scale
    table += clusters[:, None]
    # A narrow one first: its own start would take the memory of the table twice.
    head = HierarchicalSoftmax(
        num_clusters, cluster_size, 1, valid=valid, key=jax.random.key(0)
    )
    arrays = jnp.array(table), jnp.array(clusters)
    return eqx.tree_at(lambda h: (h.table, h.cluster_table), head, arrays)


def zipf_items(
    num_items: int, num_targets: int, seed: int
) -> Int[np.ndarray, " target"]:
    """Returns items drawn by Zipf's law: the r-th most popular 1 / r as often.

    Which items are popular has nothing to do with their number or cluster: of all
    clusterings, this touches most clusters.
    """
    total = np.cumsum(popularity(num_items, seed))
    drawn = np.random.default_rng((seed, 1)).random(num_targets)
    return np.searchsorted(total, total[-1] * drawn).astype(np.int32)


def popularity(num_items: int, seed: int) -> Float[np.ndarray, " item"]:
    """Returns how often each item is drawn, on a scale of its own."""
    return 1 / (1.0 + np.random.default_rng(seed).permutation(num_items))


def slots_of(
    head: HierarchicalSoftmax, item: Int[np.ndarray, " target"]
) -> Int[Array, " target"]:
    """Returns the slots of items, numbered in the order of slots."""
    return jnp.asarray(np.flatnonzero(head.valid)[item], jnp.int32)


def queries(
    head: HierarchicalSoftmax, num_queries: int, perplexity: float, seed: int
) -> Float[Array, "query item_width"]:
    """Returns queries in random directions, as long as makes them this peaked.

    Args:
        head: the catalog.
        num_queries: how many.
        perplexity: of log P(cluster), the exponential of its entropy in nats; at
            most the number of clusters, where all are equally probable.
        seed: of the directions.
    """
    rng = np.random.default_rng(seed)
    width = head.cluster_table.shape[1]
    direction = rng.standard_normal((num_queries, width))
    logits = direction @ np.asarray(head.cluster_table, np.float64).T
    bias = np.asarray(head.cluster_bias, np.float64)
    low, high = np.zeros(num_queries), np.full(num_queries, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        flat = _entropy(middle[:, None] * logits + bias) > math.log(perplexity)
        low, high = np.where(flat, middle, low), np.where(flat, high, middle)
    return jnp.asarray(low[:, None] * direction, jnp.float32)


def cluster_perplexity(
    head: HierarchicalSoftmax, hidden: Float[Array, "query item_width"]
) -> float:
    """Returns the mean over queries of the exponential of log P(cluster)'s entropy."""
    logits = hidden @ head.cluster_table.T + head.cluster_bias
    logits = jnp.where(head.valid.any(axis=1), logits, -1e30)
    return float(np.exp(_entropy(np.asarray(logits, np.float64))).mean())


def _entropy(logits: Float[np.ndarray, "query cluster"]) -> Float[np.ndarray, " query"]:
    logits = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(axis=1)
    return np.log(total) - (p * logits).sum(axis=1) / total
