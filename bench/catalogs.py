"""Synthetic catalogs, targets and queries of known properties."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eqids.model import HierarchicalSoftmax

SPREAD = 0.75
"""Deviation of items around their cluster, relative to that of clusters. A query of
cluster perplexity 8 then finds its 10 best in about 8 of 1,000 clusters."""


def random_head(
    num_items: int, num_clusters: int, width: int, seed: int
) -> HierarchicalSoftmax:
    """Returns a catalog of items that lie around their clusters' vectors.

    The sizes of clusters differ by one item at most. Queries of length `sqrt(width)`
    get cluster logits of variance 1.

    Args:
        num_items: number of valid places.
        num_clusters: number of clusters.
        width: size of the vectors.
        seed: seed of the vectors.
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
    # Width 1 at first: random tables of the full width would double the memory.
    head = HierarchicalSoftmax(
        num_clusters, cluster_size, 1, valid=valid, key=jax.random.key(0)
    )
    arrays = jnp.array(table), jnp.array(clusters)
    return eqx.tree_at(lambda h: (h.table, h.cluster_table), head, arrays)


def zipf_items(
    num_items: int, num_targets: int, seed: int
) -> Int[np.ndarray, " target"]:
    """Returns items drawn by Zipf's law: the r-th most popular 1 / r as often.

    An item's popularity is independent of its number and cluster. Of all clusterings,
    this makes the most clusters active.
    """
    total = np.cumsum(popularity(num_items, seed))
    drawn = np.random.default_rng((seed, 1)).random(num_targets)
    return np.searchsorted(total, total[-1] * drawn).astype(np.int32)


def popularity(num_items: int, seed: int) -> Float[np.ndarray, " item"]:
    """Returns how often each item is drawn, up to a factor."""
    return 1 / (1.0 + np.random.default_rng(seed).permutation(num_items))


def slots_of(
    head: HierarchicalSoftmax, item: Int[np.ndarray, " target"]
) -> Int[Array, " target"]:
    """Returns the slots of items that are numbered in the order of slots."""
    return jnp.asarray(np.flatnonzero(head.valid)[item], jnp.int32)


def queries(
    head: HierarchicalSoftmax, num_queries: int, perplexity: float, seed: int
) -> Float[Array, "query item_width"]:
    """Returns queries in random directions, scaled to a given cluster perplexity.

    Args:
        head: the catalog.
        num_queries: how many queries.
        perplexity: the exponential of P(cluster)'s entropy in nats; at most the number
            of clusters, if all are equally probable.
        seed: seed of the directions.
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
    """Returns the mean over queries of the exponential of P(cluster)'s entropy."""
    logits = hidden @ head.cluster_table.T + head.cluster_bias
    logits = jnp.where(head.valid.any(axis=1), logits, -1e30)
    return float(np.exp(_entropy(np.asarray(logits, np.float64))).mean())


def _entropy(logits: Float[np.ndarray, "query cluster"]) -> Float[np.ndarray, " query"]:
    logits = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(axis=1)
    return np.log(total) - (p * logits).sum(axis=1) / total
