"""The hierarchical softmax against brute force in numpy."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
    num_clusters, room = valid.shape
    out = np.full((len(query), num_clusters, room), -np.inf)
    for row, q in enumerate(np.asarray(query, np.float64)):
        up = {c: clusters[c] @ q + cluster_bias[c] for c in range(num_clusters)
              if valid[c].any()}  # fmt: skip
        log_total = np.log(sum(np.exp(v) for v in up.values()))
        for c, logit in up.items():
            inside = {p: table[c, p] @ q + bias[c, p] for p in range(room)
                      if valid[c, p]}  # fmt: skip
            log_inside = np.log(sum(np.exp(v) for v in inside.values()))
            for p, item in inside.items():
                out[row, c, p] = logit - log_total + item - log_inside
    return out.reshape(len(query), -1)


SHAPES = ((1, 1, 1, 1), (6, 1, 3, 40), (1, 7, 9, 2), (5, 6, 4, 33), (3, 2, 8, 17))
"""Clusters, room, item_width and queries; few, because each is compiled."""
LOG_PROBS = jax.jit(HierarchicalSoftmax.log_probs)
LOG_PROB = jax.jit(HierarchicalSoftmax.log_prob)
TOP_K = jax.jit(HierarchicalSoftmax.top_k, static_argnames="k")


@st.composite
def heads(draw: st.DrawFn) -> tuple[HierarchicalSoftmax, np.ndarray]:
    """A head of any shape, with empty places and empty clusters, and queries."""
    num_clusters, room, width, num_queries = draw(st.sampled_from(SHAPES))
    seed = draw(st.integers(0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    valid = rng.random((num_clusters, room)) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    valid[rng.integers(num_clusters), rng.integers(room)] = True
    head = HierarchicalSoftmax(
        num_clusters,
        room,
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
    asked = slots[np.arange(len(query)) % len(slots)]
    log_prob = LOG_PROB(head, query, asked)
    assert_close(log_prob, expected[np.arange(len(query)), asked], "float32")


@settings(max_examples=25)
@given(heads(), st.sampled_from([1, 3, 50]), st.booleans())
def test_top_k_is_the_sorted_catalog(
    drawn: tuple[HierarchicalSoftmax, np.ndarray], k: int, filtered: bool
) -> None:
    head, query = drawn
    scores = np.asarray(LOG_PROBS(head, query)).astype(np.float64)
    allowed = None
    if filtered:
        may = np.random.default_rng(k).random(scores.shape) < 0.6
        scores, allowed = np.where(may, scores, -np.inf), jnp.asarray(may)
    slots, values = TOP_K(head, query, k=k, allowed=allowed)
    for row, score in enumerate(scores):
        order = sorted(range(len(score)), key=lambda s: (-score[s], s))
        expected = [s for s in order if score[s] > -np.inf][:k]
        assert [s for s in slots[row].tolist() if s >= 0] == expected
        assert slots.shape == values.shape == (len(query), k)
        assert_close(values[row, : len(expected)], score[expected], "float32")
        assert np.all(np.asarray(values[row, len(expected) :]) == -np.inf)


def test_exact_ties_are_ordered_by_slot() -> None:
    head = HierarchicalSoftmax(4, 3, 2, key=jax.random.key(0))
    head = jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype != bool else x, head)
    for k in (1, 2, 5, 12):
        slots, _ = head.top_k(jnp.ones((2, 2)), k)
        assert slots.tolist() == [list(range(k))] * 2


@pytest.mark.parametrize("valid", [[[1, 0], [1, 0], [0, 0]], [[1, 1], [1, 1], [1, 0]]])
def test_gradients_are_those_of_brute_force_and_finite(valid: list[list[int]]) -> None:
    mask = np.array(valid, bool)
    head = HierarchicalSoftmax(3, 2, 5, valid=mask, key=jax.random.key(1))
    query = jax.random.normal(jax.random.key(2), (30, 5))
    slots = np.flatnonzero(mask)
    target = jnp.asarray(slots[np.arange(30) % len(slots)]).at[::7].set(-1)
    params, rest = eqx.partition(head, eqx.is_inexact_array)

    def ours(params: HierarchicalSoftmax, query: jax.Array) -> jax.Array:
        return eqx.combine(params, rest).log_prob(query, target).sum()

    def plain(params: HierarchicalSoftmax, query: jax.Array) -> jax.Array:
        """The same by full log-softmaxes, with masks that are safe in gradients."""
        held = jnp.asarray(mask)
        up = query @ params.cluster_table.T + params.cluster_bias
        up = jax.nn.log_softmax(jnp.where(held.any(1), up, -1e30))
        inside = jnp.einsum("tw,crw->tcr", query, params.table) + params.bias
        inside = jax.nn.log_softmax(jnp.where(held, inside, -1e30), axis=-1)
        joint = (up[:, :, None] + inside).reshape(len(query), -1)
        chosen = jnp.take_along_axis(joint, jnp.maximum(target, 0)[:, None], axis=1)
        return jnp.where(target >= 0, chosen[:, 0], 0.0).sum()

    found = jax.jit(jax.grad(ours, argnums=(0, 1)))(params, query)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))
    assert_close(found, jax.grad(plain, argnums=(0, 1))(params, query), "gradient")


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = HierarchicalSoftmax(7, 5, 4, key=jax.random.key(3))
    query = jax.random.normal(jax.random.key(4), (200, 4))
    slot = jax.random.randint(jax.random.key(5), (200,), -1, 35)
    whole = head.log_prob(query, slot)
    monkeypatch.setattr("eqids.model.softmax._CHUNK_FLOATS", 100)
    assert_close(head.log_prob(query, slot), whole, "float32")


def test_no_array_of_targets_by_items_is_ever_held() -> None:
    num_clusters, room, targets = 64, 64, 512
    head = HierarchicalSoftmax(num_clusters, room, 8, key=jax.random.key(0))
    query, slot = jnp.zeros((targets, 8)), jnp.zeros(targets, int)

    def loss(table: jax.Array) -> jax.Array:
        changed = eqx.tree_at(lambda h: h.table, head, table)
        return changed.log_prob(query, slot).sum()

    memory = jax.jit(jax.grad(loss)).lower(head.table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * targets * num_clusters * room * 4


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
    known = rng.standard_normal((4, 5, 8)) * 7.0
    valid = rng.random((4, 5)) < 0.7
    valid[2] = False
    known[~valid] = 0.0
    known = known.astype(np.float32)
    for width in (4, 8, 12):
        head = HierarchicalSoftmax(
            4, 5, width, valid=valid, vectors=known, key=jax.random.key(0)
        )
        shared = min(width, 8)
        table = np.asarray(head.table)
        seen, told = table[valid][:, :shared].ravel(), known[valid][:, :shared].ravel()
        assert np.corrcoef(seen, told)[0, 1] > 0.98
        assert 0.045 < seen.std() < 0.055
        means = np.stack([table[c][valid[c]].mean(axis=0) for c in (0, 1, 3)])
        assert_close(head.cluster_table[np.array([0, 1, 3])], means, "float32")
        assert_close(head.cluster_table[2], np.zeros(width), "float32")
