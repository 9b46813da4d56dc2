"""Exact top-k against a sorted catalog in float64."""

import json
from collections.abc import Callable
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from hypothesis import given, settings, strategies as st

from eqids.model import HierarchicalSoftmax, best_first, scores, search
from eqids.model.search import TopK, top_k


def reference(head: HierarchicalSoftmax, query: np.ndarray) -> np.ndarray:
    """log P of every slot in float64."""
    table, bias, clusters, cluster_bias, query = (
        np.asarray(x).astype(np.float64)
        for x in (head.table, head.bias, head.cluster_table, head.cluster_bias, query)
    )
    valid = np.asarray(head.valid)

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        top = logits.max(axis=-1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        total = np.exp(logits - top).sum(axis=-1, keepdims=True)
        return logits - top - np.log(np.where(total > 0, total, 1.0))

    up = np.where(valid.any(axis=1), query @ clusters.T + cluster_bias, -np.inf)
    inside = np.where(valid, np.einsum("qw,crw->qcr", query, table) + bias, -np.inf)
    joint = log_softmax(up)[..., None] + log_softmax(inside)
    return joint.reshape(len(query), -1)


def assert_sorted_catalog(found: TopK, score: np.ndarray, k: int) -> None:
    """Holds top-k to the catalog sorted by score and slot.

    Two items may swap places only if float32 cannot tell their
    scores apart; equal ones may not.
    """
    for row, slots, log_probs in zip(score, found.slots, found.log_probs, strict=True):
        order = np.argsort(-row, kind="stable")
        expected = order[row[order] > -np.inf][:k]
        slots, log_probs = np.asarray(slots), np.asarray(log_probs)
        n = len(expected)
        assert np.all(slots[n:] == -1) and np.all(log_probs[n:] == -np.inf)
        assert len(set(slots[:n])) == n and np.all(row[slots[:n]] > -np.inf)
        assert_close(log_probs[:n], row[slots[:n]], "float32")
        assert_close(log_probs[:n], row[expected], "float32")
        swapped = slots[:n] != expected
        assert np.all(row[slots[:n]][swapped] != row[expected][swapped])


def program(method: search.SearchMethod, **constants: int) -> Callable[..., TopK]:
    """A compiled top-k in which some of the constants are others."""

    def run(
        head: HierarchicalSoftmax,
        hidden: jax.Array,
        k: int,
        exclude: jax.Array | None = None,
        allowed: jax.Array | None = None,
        max_clusters: int | None = None,
    ) -> TopK:
        homes = {"_CHUNK_FLOATS": scores, "_ROUND": best_first}
        patches = [
            mock.patch.object(homes.get(name, search), name, value)
            for name, value in constants.items()
        ]
        for patch in patches:
            patch.start()
        try:
            return top_k(
                head, hidden, k, exclude=exclude, allowed=allowed,
                max_clusters=max_clusters, method=method,
            )  # fmt: skip
        finally:
            for patch in patches:
                patch.stop()

    return jax.jit(run, static_argnames=("k", "max_clusters"))


PROGRAMS = {
    # Searches that give up soon, and end in chunks that overlap.
    "search": program("search", _TOGETHER=3, _CHUNK_FLOATS=600),
    # Searches that never give up, in many rounds.
    "patient": program("search", _PATIENCE=1, _ROUND=4),
    "auto": program("auto"),
}
MANY, SINGLE, ONE = (40, 12, 6, 8), (23, 1, 4, 5), (1, 7, 4, 3)
"""Clusters, cluster_size, item_width and queries; few, because each is compiled."""
CASES = (
    (MANY, "search", 5, True), (MANY, "patient", 5, False), (MANY, "auto", 5, True),
    (SINGLE, "search", 3, False), (ONE, "patient", 50, True),
)  # fmt: skip
"""Shape, program, k, and whether each query has a mask of its own."""
KINDS = ("peaked", "flat", "equal", "tied", "twins", "huge", "bfloat16")


def catalog(
    shape: tuple[int, int, int, int], kind: str, full: float, seed: int
) -> tuple[HierarchicalSoftmax, np.ndarray]:
    """A head with empty places and empty clusters, and queries."""
    num_clusters, cluster_size, width, num_queries = shape
    rng = np.random.default_rng(seed)
    valid = rng.random((num_clusters, cluster_size)) < full
    valid[rng.random(num_clusters) < 0.1] = False
    valid[rng.integers(num_clusters), rng.integers(cluster_size)] = True
    table = rng.standard_normal((num_clusters, cluster_size, width))
    clusters = rng.standard_normal((num_clusters, width))
    query = rng.standard_normal((num_queries, width))
    cluster_bias = rng.standard_normal(num_clusters)
    if kind == "equal":
        query, cluster_bias = query * 0.0, cluster_bias * 0.0
    elif kind == "tied":
        table, query = np.round(table), np.round(query)
    elif kind == "huge":
        table, clusters, query = (np.round(x * 30.0) for x in (table, clusters, query))
    else:
        query *= {"peaked": 5.0, "flat": 0.01}.get(kind, 1.0)
    if kind in ("tied", "twins"):
        some, others = np.split(
            rng.permutation(num_clusters)[: num_clusters // 2 * 2], 2
        )
        for x in (table, clusters, cluster_bias, valid):
            x[some] = x[others]
    head = HierarchicalSoftmax(num_clusters, cluster_size, width, key=jax.random.key(0))
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    arrays = jnp.asarray(table, dtype), jnp.asarray(clusters, jnp.float32)
    arrays += jnp.asarray(cluster_bias, jnp.float32), jnp.asarray(valid)
    head = eqx.tree_at(
        lambda h: (h.table, h.cluster_table, h.cluster_bias, h.valid), head, arrays
    )
    return head, query.astype(np.float32)


@settings(max_examples=80)
@given(
    st.sampled_from(CASES),
    st.sampled_from(KINDS),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.integers(0, 1000),
)
def test_top_k_is_the_sorted_catalog(
    case: tuple[tuple[int, int, int, int], str, int, bool],
    kind: str,
    full: float,
    seen: float,
    allowed: float,
    seed: int,
) -> None:
    shape, method, k, own = case
    head, query = catalog(shape, kind, full, seed)
    rng = np.random.default_rng(seed + 1)
    score = reference(head, query)
    masks = rng.random((len(query), *head.valid.shape)) < allowed
    may = masks if own else masks[0]
    hidden = rng.random(score.shape) < seen
    exclude = np.where(hidden, np.arange(score.shape[1]), -1)
    exclude[:, ::7] = np.where(hidden[:, ::7], exclude[:, ::7], score.shape[1] + 5)
    found = PROGRAMS[method](
        head, query, k, jnp.asarray(exclude, jnp.int32), jnp.asarray(may)
    )
    assert np.all(found.exact)
    left = np.where(may.reshape(-1, score.shape[1]) & ~hidden, score, -np.inf)
    assert_sorted_catalog(found, left, k)


def searchable(num_clusters: int = 400, cluster_size: int = 10) -> HierarchicalSoftmax:
    """A head whose clusters are far apart."""
    head = HierarchicalSoftmax(num_clusters, cluster_size, 8, key=jax.random.key(1))
    return jax.tree.map(lambda x: x * 50 if x.dtype != bool else x, head)


def test_a_peaked_query_visits_few_clusters_and_a_flat_one_is_scored_whole() -> None:
    head = searchable()
    peaked = 3.0 * jax.random.normal(jax.random.key(2), (5, 8))
    hidden = jnp.concatenate([peaked, jnp.zeros((1, 8)), peaked])
    found = PROGRAMS["search"](head, hidden, 4)
    assert_sorted_catalog(found, reference(head, hidden), 4)
    visited = np.asarray(found.visited)
    assert visited[5] == 400 and np.all(np.delete(visited, 5) <= 400 // 16 + 16)
    whole = program("full")(head, hidden, 4)
    assert np.array_equal(found.slots, whole.slots) and np.all(whole.visited == 400)


def test_lists_work_inside_the_search() -> None:
    """What is seen does not stop it early, and what is not allowed costs no visits."""
    head = searchable()
    query = 3.0 * jax.random.normal(jax.random.key(2), (5, 8))
    score = reference(head, query)
    best = np.argsort(-score, axis=1)[:, :60]
    run, everything = PROGRAMS["patient"], np.ones(head.valid.shape, bool)
    found = run(head, query, 4, jnp.asarray(best, jnp.int32), jnp.asarray(everything))
    np.put_along_axis(score, best, -np.inf, axis=1)
    assert_sorted_catalog(found, score, 4)
    none, few = jnp.full((5, 60), -1, jnp.int32), ~everything
    few[[3, 300]] = True
    found = run(head, query, 4, none, jnp.asarray(few))
    assert np.all(found.visited <= 2)
    assert set(np.asarray(found.slots // 10).ravel()) <= {3, 300}


def test_a_limited_search_says_whether_it_is_exact() -> None:
    head, limit = searchable(), 8
    hidden = 3.0 * jax.random.normal(jax.random.key(2), (20, 8))
    hidden = jnp.concatenate([hidden, jnp.zeros((1, 8))])
    score = reference(head, hidden)
    found = PROGRAMS["auto"](head, hidden, 3, max_clusters=limit)
    assert np.all(found.visited <= limit)
    exact = np.asarray(found.exact)
    assert 0 < exact.sum() < 21 and not exact[20]
    assert_sorted_catalog(TopK(*(x[exact] for x in found)), score[exact], 3)
    for row in np.flatnonzero(~exact[:20]):
        clusters = np.exp(score[row]).reshape(400, 10).sum(axis=1)
        best = np.argsort(-clusters)[:limit]
        assert set(np.asarray(found.slots[row] // 10)) <= set(best)


@pytest.mark.parametrize("method", list(PROGRAMS))
def test_a_query_that_is_no_number_finds_nothing(method: str) -> None:
    head, query = catalog(MANY, "peaked", 1.0, seed=0)
    query[0, 3] = np.nan
    none, everything = jnp.full((8, 480), -1, jnp.int32), jnp.ones((40, 12), bool)
    found = PROGRAMS[method](head, query, 5, none, everything)
    assert np.all(found.slots[0] == -1) and np.all(found.log_probs[0] == -jnp.inf)
    assert_sorted_catalog(TopK(*(x[1:] for x in found)), reference(head, query[1:]), 5)


def test_one_query_and_many_axes_agree() -> None:
    head = searchable(num_clusters=40, cluster_size=3)
    hidden = jax.random.normal(jax.random.key(3), (2, 3, 8))
    seen = jax.random.randint(jax.random.key(4), (2, 3, 5), 0, 120)
    own = jax.random.uniform(jax.random.key(5), (2, 3, 40, 3)) < 0.3
    found = PROGRAMS["auto"](head, hidden, 4, seen, own)
    assert found.slots.shape == (2, 3, 4) and found.visited.shape == (2, 3)
    one = PROGRAMS["auto"](head, hidden[1, 2], 4, seen[1, 2], own[1, 2])
    np.testing.assert_array_equal(one.slots, found.slots[1, 2])


@pytest.mark.parametrize("method", ["search", "full"])
def test_no_array_of_queries_by_items_is_ever_held(method: search.SearchMethod) -> None:
    shape, num_queries = (4096, 64, 8), 256
    head = eqx.filter_eval_shape(HierarchicalSoftmax, *shape, key=jax.random.key(0))
    hidden = jax.ShapeDtypeStruct((num_queries, 8), jnp.float32)
    compiled = program(method).lower(head, hidden, 10).compile()
    scores = num_queries * 4096 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * scores


COLLECTIVE = (
    r" (\w+)\[([\d,]*)\]\S* (all-gather|all-reduce|all-to-all|collective-permute"
    r"|reduce-scatter)(-start)?\("
)
"""In a compiled text: element type, shape, and what moves."""

ON_A_MESH = """
import json, re, sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from test_search import COLLECTIVE, searchable
from eqids.model.search import top_k

mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Explicit,) * 3)
hidden = 2.0 * jax.random.normal(jax.random.key(2), (16, 8))
hidden = hidden.at[3].set(0.0)
seen = jax.random.randint(jax.random.key(3), (16, 6), -1, 500)
def run(method, limit=None):
    def call(head, hidden, seen, allowed):
        return top_k(head, hidden, 5, exclude=seen, allowed=allowed, method=method,
                     max_clusters=limit)
    return jax.jit(call)

def sent(compiled):
    found = re.findall(COLLECTIVE, compiled.as_text())
    return [int(np.prod([int(n) for n in f[1].split(",") if n])) for f in found]

def lay(x, axes):
    return jax.device_put(x, NamedSharding(mesh, P(axes or None)))

EVERY = ("x", "y", "z"), ("x", "y")
OTHERS = ((("z",), ("x", "y")), (("x", "y"), ("y", "z")), ((), ("x", "y", "z")),
          (("x", "y", "z"), ()))
out = {"sent": {}, "visited": {}}
for num_clusters, own, layouts in (
    (160, True, (EVERY, *OTHERS)),
    (160, False, (EVERY, *OTHERS)),
    (320, False, (EVERY,)),
):
    head = searchable(num_clusters, 10)
    shape = (16, *head.valid.shape) if own else head.valid.shape
    allowed = jax.random.uniform(jax.random.key(4), shape) < 0.8
    alone = run("search")(head, hidden, seen, allowed)
    out["visited"]["alone"] = alone.visited.tolist()
    for clusters, batch in layouts:
        with jax.set_mesh(mesh):
            split = jax.tree.map(lambda x: lay(x, clusters), head)
            args = split, lay(hidden, batch), seen, allowed
            for method in ("full", "search") if batch == ("x", "y") else ("search",):
                program = run(method).lower(*args).compile()
                found = program(*args)
                assert np.array_equal(found.slots, alone.slots), (clusters, batch)
                assert np.allclose(found.log_probs, alone.log_probs, atol=1e-5)
                assert np.all(found.exact)
                spec = jax.typeof(found.slots).sharding.spec
                assert spec == jax.typeof(args[1]).sharding.spec
                if (clusters, batch) == EVERY and not own:
                    out["sent"][f"{num_clusters} {method}"] = sent(program)
            out["visited"]["".join(clusters)] = found.visited.tolist()
with jax.set_mesh(mesh):
    found = run("search", 8)(*args)
exact = np.asarray(found.exact)
assert (np.asarray(found.slots) == np.asarray(alone.slots))[exact].all()
assert np.all(found.visited <= 8) and exact.any() and not exact.all()
print(json.dumps(out))
"""


@pytest.mark.long
def test_clusters_split_over_eight_devices_give_the_same_and_never_move() -> None:
    found = json.loads(run_python(ON_A_MESH).splitlines()[-1])
    for method in ("search", "full"):
        small, large = (found["sent"][f"{n} {method}"] for n in (160, 320))
        assert small == large and max(small) <= 16 * 8 * 5  # queries, shards and k
    visited = {name: np.median(v) for name, v in found["visited"].items()}
    assert visited["xyz"] <= visited["alone"] + 8
