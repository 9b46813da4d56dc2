"""The hierarchical softmax against brute force in numpy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from conftest import assert_close
from hypothesis import given, settings, strategies as st

from eqids.model import HierarchicalSoftmax
from sharding import words


def brute_force(head: HierarchicalSoftmax, query: np.ndarray) -> np.ndarray:
    """log P of every slot, in float64 and with loops."""
    table, bias, clusters, cluster_bias = (
        np.asarray(x, np.float64)
        for x in (head.table, head.bias, head.cluster_table, head.cluster_bias)
    )
    valid = np.asarray(head.valid)
    num_clusters, cluster_size = valid.shape
    out = np.full((len(query), num_clusters, cluster_size), -np.inf)
    for row, q in enumerate(np.asarray(query, np.float64)):
        up = {c: clusters[c] @ q + cluster_bias[c] for c in range(num_clusters)
              if valid[c].any()}  # fmt: skip
        log_total = np.log(sum(np.exp(v) for v in up.values()))
        for c, logit in up.items():
            inside = {p: table[c, p] @ q + bias[c, p] for p in range(cluster_size)
                      if valid[c, p]}  # fmt: skip
            log_inside = np.log(sum(np.exp(v) for v in inside.values()))
            for p, item in inside.items():
                out[row, c, p] = logit - log_total + item - log_inside
    return out.reshape(len(query), -1)


SHAPES = ((1, 1, 1, 1), (6, 1, 3, 40), (1, 7, 9, 2), (5, 6, 4, 33), (3, 2, 8, 17))
"""Clusters, cluster_size, item_width and queries; few, because each is compiled."""
LOG_PROBS = jax.jit(HierarchicalSoftmax.log_probs)
LOG_PROB = jax.jit(HierarchicalSoftmax.log_prob)
TOP_K = jax.jit(HierarchicalSoftmax.top_k, static_argnames="k")


@st.composite
def heads(draw: st.DrawFn) -> tuple[HierarchicalSoftmax, np.ndarray]:
    """A head of any shape, with empty places and empty clusters, and queries."""
    num_clusters, cluster_size, width, num_queries = draw(st.sampled_from(SHAPES))
    seed = draw(st.integers(0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    valid = rng.random((num_clusters, cluster_size)) < draw(
        st.sampled_from([0.3, 0.8, 1.0])
    )
    valid[rng.integers(num_clusters), rng.integers(cluster_size)] = True
    head = HierarchicalSoftmax(
        num_clusters,
        cluster_size,
        width,
        valid=valid,
        counts=rng.integers(0, 50, valid.shape),
        key=jax.random.key(seed),
    )
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    query = rng.standard_normal((num_queries, width)) * scale
    return head, query.astype(np.float32)


@settings(max_examples=25)
@given(heads())
def test_every_probability_equals_brute_force_and_they_sum_to_one(
    drawn: tuple[HierarchicalSoftmax, np.ndarray],
) -> None:
    head, query = drawn
    words(head)
    expected = brute_force(head, query)
    scores = np.asarray(LOG_PROBS(head, query))
    held = np.isfinite(expected)
    assert np.array_equal(np.isfinite(scores), held)
    assert_close(scores[held], expected[held], "float32")
    assert_close(np.exp(scores).sum(axis=1), np.ones(len(query)), "float32")
    slots = np.flatnonzero(np.asarray(head.valid))
    own = slots[np.arange(len(query)) % len(slots)]
    log_prob = LOG_PROB(head, query, own)
    assert_close(log_prob, expected[np.arange(len(query)), own], "float32")


def test_top_k_is_the_sorted_catalog_and_ties_are_ordered_by_slot() -> None:
    head = HierarchicalSoftmax(4, 3, 2, key=jax.random.key(0))
    query = jax.random.normal(jax.random.key(1), (2, 3, 2))
    found = TOP_K(head, query, k=5)
    scores = np.asarray(LOG_PROBS(head, query))
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :5]
    assert np.array_equal(found.slots, order) and bool(found.exact.all())
    assert_close(found.log_probs, np.take_along_axis(scores, order, -1), "float32")
    flat = jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype != bool else x, head)
    assert flat.top_k(query[0], 12).slots.tolist() == [list(range(12))] * 3


def test_one_query_and_many_axes_agree(getkey: Callable[[], jax.Array]) -> None:
    head = HierarchicalSoftmax(3, 4, 6, key=getkey())
    query = jax.random.normal(getkey(), (2, 5, 6))
    slot = jax.random.randint(getkey(), (2, 5), 0, 12)
    one = [[LOG_PROB(head, q, s) for q, s in zip(*r, strict=True)]
           for r in zip(query, slot, strict=True)]  # fmt: skip
    assert_close(LOG_PROB(head, query, slot), jnp.array(one), "float32")


def test_biases_start_from_log_popularity() -> None:
    counts = np.array([[9, 0], [4, 3]])
    head = HierarchicalSoftmax(2, 2, 3, counts=counts, key=jax.random.key(0))
    scores = head.log_probs(jnp.zeros(3))
    assert_close(jnp.exp(scores), (counts + 1.0).reshape(-1) / 20.0, "float32")


def test_vectors_start_from_what_is_known_of_the_items() -> None:
    rng = np.random.default_rng(0)
    given = rng.standard_normal((4, 5, 8)) * 7.0
    valid = rng.random((4, 5)) < 0.7
    valid[2] = False
    given[~valid] = 0.0
    given = given.astype(np.float32)
    for width in (4, 8, 12):
        head = HierarchicalSoftmax(
            4, 5, width, valid=valid, vectors=given, key=jax.random.key(0)
        )
        shared = min(width, 8)
        table = np.asarray(head.table)
        seen, start = table[valid][:, :shared].ravel(), given[valid][:, :shared].ravel()
        assert np.corrcoef(seen, start)[0, 1] > 0.98
        assert 0.045 < seen.std() < 0.055
        means = np.stack([table[c][valid[c]].mean(axis=0) for c in (0, 1, 3)])
        assert_close(head.cluster_table[np.array([0, 1, 3])], means, "float32")
        assert_close(head.cluster_table[2], np.zeros(width), "float32")
