"""Mixtures with counts against dense NumPy in float64."""

import dataclasses
from collections.abc import Callable
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from hypothesis import given, settings, strategies as st
from models import FLOAT32
from test_rank import by_sorting
from test_search import KINDS, MANY, assert_sorted_catalog, catalog, reference

from eqids.config import MARKOV_ORDER, LlamaConfig, ModelConfig
from eqids.model import (
    Batch,
    EqIDs,
    HierarchicalSoftmax,
    Mixture,
    SuccessorCounts,
    recent_items,
    scores,
    search,
)
from eqids.model.rank import ranks
from eqids.model.search import TopK, top_k


def random_counts(
    valid: np.ndarray, width: int, rng: np.random.Generator, gate: float
) -> SuccessorCounts:
    """Rows of different lengths, some empty, that sum to 1."""
    items, size = np.flatnonzero(valid), valid.size
    slot, weight = np.zeros((size, width), np.int32), np.zeros((size, width))
    for row in range(size):
        num = min(rng.integers(0, width + 1), len(items))
        slot[row, :num] = rng.choice(items, num, replace=False)
        weight[row, :num] = rng.random(num) + 0.01
    total = weight.sum(axis=1)
    weight /= np.where(total, total, 1)[:, None]
    return SuccessorCounts(
        jnp.asarray(slot.reshape(*valid.shape, width)),
        jnp.asarray(weight.reshape(*valid.shape, width), jnp.float32),
        jnp.asarray(gate, jnp.float32),
    )


def by_counting(
    counts: SuccessorCounts,
    recent: np.ndarray,
    head: HierarchicalSoftmax,
    query: np.ndarray,
) -> tuple[np.ndarray, float]:
    """P_counts of all slots and λ, given items newest first and their query."""
    slot, weight = (
        np.asarray(x, np.float64).reshape(head.valid.size, -1)
        for x in (counts.slot, counts.weight)
    )
    prob = np.zeros(len(slot))
    for distance, item in enumerate(recent[:MARKOV_ORDER], start=1):
        np.add.at(prob, slot[item].astype(int), weight[item] / distance)
    if not prob.any():
        return prob, 0.0
    table, bias, clusters, cluster_bias, query = (
        np.asarray(x, np.float64)
        for x in (head.table, head.bias, head.cluster_table, head.cluster_bias, query)
    )
    up, logit = query @ clusters.T + cluster_bias, table @ query + bias
    score = (up[:, None] + logit).reshape(-1)
    score = np.where(prob > 0, score, -np.inf)
    prob *= np.exp(0.5 * (score - score.max()))
    return prob / prob.sum(), float(counts.gate)


def mixed(score: np.ndarray, prob: np.ndarray, share: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        log_prob = np.log(prob) + np.log(share)
    return np.logaddexp(score + np.log1p(-share), log_prob)


WIDTH, LENGTH = 7, 9
EXACT_KINDS = [kind for kind in KINDS if kind not in ("bfloat16", "huge")]
"""Kinds of catalog whose scores float32 has to a few units of the last place."""


def histories(
    valid: np.ndarray, num: int, rng: np.random.Generator
) -> tuple[Batch, np.ndarray, list[np.ndarray]]:
    """Rows of two histories with text between items, and positions in the second."""
    items = np.full((num, 2 * LENGTH), -1, np.int32)
    segment, own = np.zeros(items.shape, np.int32), []
    position = np.zeros(num, np.int32)
    for row in range(num):
        first, end = rng.integers(1, LENGTH), rng.integers(LENGTH + 1, 2 * LENGTH)
        segment[row, :first], segment[row, first:end] = 1, 2
        is_item = rng.random(end) < 0.7
        is_item[first] = True
        slots = rng.choice(np.flatnonzero(valid), end)
        items[row, :end] = np.where(is_item, slots, -1)
        position[row] = rng.integers(first, end)
        seen = items[row, first : position[row] + 1]
        own.append(seen[seen >= 0])
    zeros = np.zeros_like(items)
    batch = Batch(*map(jnp.asarray, (zeros, items, zeros, segment, zeros, zeros - 1)))
    return batch, position, own


@jax.jit
def mixture_of(
    counts: SuccessorCounts,
    batch: Batch,
    position: jax.Array,
    query: jax.Array,
    head: HierarchicalSoftmax,
) -> tuple[jax.Array, Mixture]:
    recent = recent_items(batch.items, batch.segment, position)
    return recent, counts.mixture(recent, query, head)


@settings(max_examples=20)
@given(st.sampled_from(EXACT_KINDS), st.integers(0, 2**31 - 1), st.floats(0, 0.95))
def test_probabilities_are_those_of_float64_and_sum_to_one(
    kind: str, seed: int, gate: float
) -> None:
    head, query = catalog(MANY, kind, 0.8, seed)
    rng, valid = np.random.default_rng(seed), np.asarray(head.valid)
    counts = random_counts(valid, WIDTH, rng, gate)
    batch, position, own = histories(valid, len(query), rng)
    recent, mixture = mixture_of(
        counts, batch, jnp.asarray(position), jnp.asarray(query), head
    )
    softmax = head.log_probs(jnp.asarray(query))
    found = mixture.log_probs(softmax)
    for row, seen in enumerate(own):
        newest = seen[::-1][:MARKOV_ORDER]
        assert recent[row].tolist()[: len(newest)] == newest.tolist()
        assert (recent[row, len(newest) :] == -1).all()
        held = np.asarray(mixture.slot[row])
        held = held[held < valid.size]
        assert len(set(held.tolist())) == len(held)
        # The share and the counts are the oracle's, the softmax is that of float32.
        prob, share = by_counting(counts, newest, head, query[row])
        score = np.asarray(softmax[row], np.float64)
        expected = np.exp(mixed(score, prob, share))
        np.testing.assert_allclose(np.exp(found[row]), expected, atol=1e-6)
        total = np.exp(np.asarray(found[row], np.float64)).sum()
        assert total == pytest.approx(1, abs=2e-5)
        assert np.isneginf(np.asarray(found[row])[~valid.reshape(-1)]).all()


def search_program(method: search.SearchMethod) -> Callable[..., TopK]:
    def run(
        head: HierarchicalSoftmax,
        hidden: jax.Array,
        mixture: Mixture,
        exclude: jax.Array,
        allowed: jax.Array,
    ) -> TopK:
        with (
            mock.patch.object(scores, "_CHUNK_FLOATS", 600),
            mock.patch.object(search, "_TOGETHER", 3),
        ):
            return top_k(
                head, hidden, 5, exclude=exclude, allowed=allowed, method=method,
                mixture=mixture,
            )  # fmt: skip

    return jax.jit(run)


SEARCHES = {name: search_program(name) for name in ("search", "full")}


@jax.jit
def in_chunks(
    head: HierarchicalSoftmax,
    hidden: jax.Array,
    target: jax.Array,
    seen: jax.Array,
    mixture: Mixture,
) -> jax.Array:
    with mock.patch.object(scores, "_CHUNK_FLOATS", 1500):
        return ranks(head, hidden, target, seen, mixture=mixture)


@settings(max_examples=25)
@given(
    st.sampled_from(EXACT_KINDS),
    st.integers(0, 2**31 - 1),
    st.sampled_from([0.0, 0.001, 0.1, 0.5, 0.9, 0.99999]),
)
def test_ranks_and_searches_are_those_of_the_sorted_mixture(
    kind: str, seed: int, gate: float
) -> None:
    head, query = catalog(MANY, kind, 0.8, seed)
    rng, valid = np.random.default_rng(seed), np.asarray(head.valid)
    counts = random_counts(valid, WIDTH, rng, gate)
    batch, position, own = histories(valid, len(query), rng)
    _, mixture = mixture_of(
        counts, batch, jnp.asarray(position), jnp.asarray(query), head
    )
    score = reference(head, query)
    for row, seen_items in enumerate(own):
        newest = seen_items[::-1][:MARKOV_ORDER]
        score[row] = mixed(score[row], *by_counting(counts, newest, head, query[row]))

    items, num_slots = np.flatnonzero(valid), valid.size
    target = rng.choice(items, len(query))
    held = np.asarray(mixture.slot)
    for row in range(0, len(query), 2):  # half of the targets in the support
        some = held[row][held[row] < num_slots]
        target[row] = rng.choice(some) if len(some) else target[row]
    seen = rng.integers(-3, num_slots + 3, (len(query), 20)).astype(np.int32)
    seen[0, :5] = target[0]
    args = head, jnp.asarray(query)
    found = in_chunks(*args, jnp.asarray(target), jnp.asarray(seen), mixture)
    own_score = score[np.arange(len(query)), target]
    assert_close(found[:, 2], own_score, "float32")
    close = 2e-5 * np.maximum(1.0, np.abs(own_score))[:, None]
    slack = (np.abs(score - own_score[:, None]) < close).sum(axis=1)
    for row in range(len(query)):
        expected = by_sorting(score[row], target[row], set(seen[row]))
        for ours, theirs in zip(found[row, :2].tolist(), expected, strict=True):
            assert ours == theirs or abs(ours - theirs) <= slack[row] - 1

    allowed = rng.random((len(query), *valid.shape)) < 0.7
    left = np.where(allowed.reshape(score.shape), score, -np.inf)
    for row, slots in zip(left, seen, strict=True):
        row[slots[(slots >= 0) & (slots < num_slots)]] = -np.inf
    for program in SEARCHES.values():
        top = program(*args, mixture, jnp.asarray(seen), jnp.asarray(allowed))
        assert np.asarray(top.exact).all()
        assert_sorted_catalog(top, left, 5)


def test_a_search_with_counts_visits_few_clusters() -> None:
    """Counts of a few items in other clusters do not make it score the catalog."""
    head, query = catalog((400, 12, 6, 8), "peaked", 1.0, 3)
    rng, valid = np.random.default_rng(3), np.asarray(head.valid)
    counts = random_counts(valid, WIDTH, rng, 0.5)
    batch, position, _ = histories(valid, len(query), rng)
    _, mixture = mixture_of(
        counts, batch, jnp.asarray(position), jnp.asarray(query), head
    )
    found = top_k(head, jnp.asarray(query), 5, method="search", mixture=mixture)
    assert np.asarray(found.visited).max() <= 5 + MARKOV_ORDER * WIDTH
    limited = top_k(head, jnp.asarray(query), 5, max_clusters=1, mixture=mixture)
    assert np.asarray(limited.visited).max() == 1
    assert not np.asarray(limited.exact).all()
    one = jax.tree.map(lambda x: x[0], mixture)
    alone = top_k(head, jnp.asarray(query[0]), 5, method="search", mixture=one)
    assert alone.slots.tolist() == found.slots[0].tolist()


@pytest.mark.long
def test_counts_have_no_part_in_the_loss() -> None:
    llama = LlamaConfig(16, 1, 2, 1, 8, 24, 7, tied=True)
    sizes = ModelConfig(llama, 6, 5, item_width=8)
    rng, valid = np.random.default_rng(0), np.ones((6, 5), np.bool_)
    plain = EqIDs(sizes, key=jax.random.key(0))
    counts = random_counts(valid, WIDTH, rng, 0.7)
    more = dataclasses.replace(sizes, num_successors=WIDTH)
    both = EqIDs(more, successors=counts, key=jax.random.key(0))
    batch, position, _ = histories(valid, 4, rng)
    batch = eqx.tree_at(lambda b: b.target, batch, jnp.maximum(batch.items, 0))
    assert both.loss(batch)[0] == plain.loss(batch)[0]
    gate = jax.jit(jax.grad(lambda g: with_gate(both, g).loss(batch)[0]))(counts.gate)
    assert not np.asarray(gate).any()
    query, recent = jnp.zeros((4, 8)), jnp.zeros((4, MARKOV_ORDER), jnp.int32)
    assert plain.mixture(query, recent) is None
    assert both.mixture(query, recent) is not None
    assert counts.gate.dtype == FLOAT32


def with_gate(model: EqIDs, gate: jax.Array) -> EqIDs:
    return eqx.tree_at(lambda m: m.successors.gate, model, gate)


ON_A_MESH = """
import sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from eqids.config import LlamaConfig, ModelConfig
from eqids.fit.step import split
from eqids.model import Batch, EqIDs, recent_items
from eqids.model.rank import ranks
from eqids.model.search import top_k
from sharding import Placement, make_mesh, named_layout
import dataclasses, equinox as eqx
from test_counts import WIDTH, histories, random_counts

rng = np.random.default_rng(0)
valid = np.ones((11, 5), np.bool_)  # clusters that no mesh divides
sizes = ModelConfig(
    LlamaConfig(32, 1, 4, 4, 8, 64, 64, tied=True), 11, 5, item_width=16,
    num_successors=WIDTH,
)
counts = random_counts(valid, WIDTH, rng, .6)
model = EqIDs(sizes, successors=counts, key=jax.random.key(0))
batch, position, _ = histories(valid, 16, rng)
host = jax.tree.map(np.asarray, batch)
target = rng.integers(0, 55, 16).astype(np.int32)
seen = rng.integers(-1, 60, (16, 6)).astype(np.int32)

@jax.jit
def run(model, batch, position, target, seen):
    query = model.queries_at(batch, position, dtype=jnp.float32)
    recent = recent_items(batch.items, batch.segment, position)
    mixture = model.mixture(query, recent)
    found = [
        top_k(model.softmax, query, 7, exclude=seen, method=method, mixture=mixture)
        for method in ("search", "full")
    ]
    return ranks(model.softmax, query, target, seen, mixture=mixture), found

class Rest(eqx.Module):
    position: "jaxtyping.Int[jax.Array, ' batch']"

alone, wanted = jax.tree.map(np.asarray, run(model, batch, position, target, seen))
for name in ("8x1x1", "1x8x1", "2x2x2", "2x1x4"):
    layout = named_layout(name, 8)
    put = Placement(layout, make_mesh(layout))
    with put.active():
        placed, rows = put(model), put.batch((host, position, target, seen), 16)
        found, tops = jax.tree.map(np.asarray, run(placed, *rows))
        params, _ = split(placed, "all", jnp.float32)
        from eqids.fit.gate import gate_of, with_gate
        new = with_gate(params, 0.25)
        assert gate_of(new).sharding == gate_of(params).sharding
    assert np.array_equal(found[:, :2], alone[:, :2]), name
    assert np.allclose(found, alone, atol=1e-5), name
    for top, other in zip(tops, wanted):
        assert np.array_equal(top.slots, other.slots), name
        assert np.allclose(top.log_probs, other.log_probs, atol=1e-5), name
print("ok")
"""


@pytest.mark.long
def test_counts_split_over_eight_devices_give_the_same() -> None:
    assert run_python(ON_A_MESH).endswith("ok\n")
