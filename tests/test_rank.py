"""Exact ranks in chunks against ranks of all scores."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from hypothesis import given, settings, strategies as st
from test_search import KINDS, MANY, ONE, SINGLE, catalog, reference

from eqids.fit import ranking
from eqids.model import HierarchicalSoftmax, scores
from eqids.model.rank import ranks


@jax.jit
def in_chunks(
    head: HierarchicalSoftmax,
    hidden: jax.Array,
    target: jax.Array,
    seen: jax.Array,
    seen_by: jax.Array | None = None,
) -> jax.Array:
    """Ranks by several chunks, of which the last overlaps the one before."""
    with mock.patch.object(scores, "_CHUNK_FLOATS", 1500):
        return ranks(head, hidden, target, seen, seen_by)


def by_sorting(score: np.ndarray, target: int, seen: set[int]) -> list[float]:
    """Rank with seen items filtered, and unfiltered."""
    others = np.delete(np.arange(len(score)), target)
    left = [slot for slot in others if slot not in seen]

    def rank(among: list[int]) -> float:
        above = np.sum(score[among] > score[target])
        return 1 + above + np.sum(score[among] == score[target]) / 2

    return [np.inf if target in seen else rank(left), rank(list(others))]


@settings(max_examples=60)
@given(
    st.sampled_from([MANY, SINGLE, ONE]),
    st.sampled_from(KINDS),
    st.sampled_from([0.3, 1.0]),
    st.integers(0, 2**31 - 1),
)
def test_ranks_are_those_of_the_sorted_catalog(
    shape: tuple[int, int, int, int], kind: str, full: float, seed: int
) -> None:
    head, query = catalog(shape, kind, full, seed)
    rng = np.random.default_rng(seed)
    score = reference(head, query)
    num_users, num_slots = score.shape
    target = rng.choice(np.flatnonzero(np.asarray(head.valid)), num_users)
    seen = rng.integers(-3, num_slots + 3, (num_users, 20))
    seen[0, :5] = target[0]
    found = in_chunks(head, query, jnp.asarray(target), jnp.asarray(seen))
    own = score[np.arange(num_users), target]
    assert_close(found[:, 2], own, "float32")
    # What float32 cannot tell from the target's score may be above it or not.
    close = 2e-5 * max(1.0, np.abs(own).max())
    near = np.abs(score - own[:, None]) < close
    near &= score != own[:, None]
    for row in range(num_users):
        expected = by_sorting(score[row], target[row], set(seen[row]))
        slack = near[row].sum()
        for ours, theirs in zip(found[row, :2].tolist(), expected, strict=True):
            assert ours == theirs or abs(ours - theirs) <= slack


def shared_rows(
    seen: list[list[int]], none: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same lists one after the other, in as many rows, and whose each is."""
    slots, users = np.full((2, len(seen), width), none)
    flat = [slot for one in seen for slot in one]
    slots.flat[: len(flat)] = flat
    users.flat[:] = 0
    users.flat[: len(flat)] = np.repeat(np.arange(len(seen)), [len(s) for s in seen])
    return slots, users


@settings(max_examples=30)
@given(
    st.sampled_from(KINDS),
    st.integers(0, 2**31 - 1),
    st.lists(st.integers(0, 40), min_size=8, max_size=8),
)
def test_long_lists_use_the_rows_of_short_ones(
    kind: str, seed: int, lengths: list[int]
) -> None:
    head, query = catalog(MANY, kind, 0.8, seed)
    rng = np.random.default_rng(seed)
    slots = np.arange(head.valid.size)
    seen = [rng.choice(slots, n, replace=False).tolist() for n in lengths]
    target = rng.choice(np.flatnonzero(np.asarray(head.valid)), 8)
    own = np.full((8, 41), -1)
    for row, one in zip(own, seen, strict=True):
        row[: len(one)] = one
    together = shared_rows(seen, len(slots) + 5, 41)
    args = head, jnp.asarray(query), jnp.asarray(target)
    expected = in_chunks(*args, jnp.asarray(own))
    found = in_chunks(*args, *map(jnp.asarray, together))
    np.testing.assert_array_equal(found, expected)
    scores = head.log_probs(jnp.asarray(query))
    dense = ranking.ranks_of_scores(scores, args[2], *map(jnp.asarray, together))
    padded = np.where(own < 0, len(slots) + 5, own)
    np.testing.assert_array_equal(
        dense, ranking.ranks_of_scores(scores, args[2], jnp.asarray(padded))
    )
    missed = [t in one for t, one in zip(target.tolist(), seen, strict=True)]
    assert np.isinf(np.asarray(found[:, 0])).tolist() == missed


@pytest.mark.parametrize("kind", ["peaked", "tied", "equal"])
def test_ranks_are_those_of_all_scores_together(kind: str) -> None:
    head, query = catalog(MANY, kind, 0.8, seed=7)
    rng = np.random.default_rng(7)
    target = jnp.asarray(rng.choice(np.flatnonzero(np.asarray(head.valid)), 8))
    seen = jnp.asarray(rng.integers(0, 500, (8, 20)))
    found = in_chunks(head, query, target, seen)
    dense = ranking.ranks_of_scores(head.log_probs(jnp.asarray(query)), target, seen)
    np.testing.assert_array_equal(found[:, :2], dense)


def test_a_score_that_is_no_number_never_ranks_well() -> None:
    head, query = catalog(MANY, "peaked", 1.0, seed=1)
    query[0, 2] = np.nan
    cluster = int(np.flatnonzero(np.asarray(head.valid).any(axis=1))[0])
    table = head.table.at[cluster, 3].set(jnp.nan)
    head = jax.tree.map(lambda x: table if x is head.table else x, head)
    other = np.flatnonzero(np.asarray(head.valid))[-1]
    target = jnp.full(8, other).at[1].set(cluster * 12)
    seen = jnp.broadcast_to(jnp.arange(20), (8, 20)) + 12 * (cluster + 1)
    found = np.asarray(in_chunks(head, query, target, seen))
    num_items = int(head.valid.sum())
    assert np.all(found[:2, :2] >= num_items)
    assert np.all(found[2:, :2] > 12)


ON_A_MESH = """
import re, sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from test_search import COLLECTIVE, searchable
from eqids.model.rank import ranks

mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
head = searchable(160, 10)
hidden = jax.random.normal(jax.random.key(2), (16, 8))
target = jax.random.randint(jax.random.key(3), (16,), 0, 1600)
seen = jax.random.randint(jax.random.key(4), (16, 6), -1, 1700)
alone = np.asarray(jax.jit(ranks)(head, hidden, target, seen))
for clusters, batch in ((("x", "y"), ("x",)), (("y",), ("x",)), ((), ("x", "y"))):
    with jax.set_mesh(mesh):
        def lay(x, axes):
            return jax.device_put(x, NamedSharding(mesh, P(axes or None)))
        split = jax.tree.map(lambda x: lay(x, clusters), head)
        args = split, lay(hidden, batch), target, seen
        program = jax.jit(ranks).lower(*args).compile()
        found = program(*args)
    assert np.array_equal(found[:, :2], alone[:, :2]), (clusters, batch)
    assert np.allclose(found, alone, atol=1e-5)
    sent = re.findall(COLLECTIVE, program.as_text())
    sizes = [int(np.prod([int(n) for n in m[1].split(",") if n])) for m in sent]
    assert bool(sizes) == bool(clusters) and max(sizes, default=0) <= 16 * 8, sizes
    # The same lists in the rows of other users, and of other devices.
    order = jax.random.permutation(jax.random.key(5), 96)
    owner = jnp.repeat(jnp.arange(16, dtype=jnp.int32), 6)[order].reshape(16, 6)
    mixed = seen.reshape(-1)[order].reshape(16, 6)
    with jax.set_mesh(mesh):
        again = jax.jit(ranks)(*args[:3], mixed, owner)
    assert np.array_equal(again, found), (clusters, batch)
print("ok")
"""


@pytest.mark.long
def test_clusters_split_over_eight_devices_give_the_same_and_never_move() -> None:
    assert run_python(ON_A_MESH).endswith("ok\n")
