"""The loss and its gradient: against brute force, in pieces, in blocks, on a mesh."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from hypothesis import given, settings, strategies as st

from eqids.model import ActiveClusters, HierarchicalSoftmax, levels
from eqids.model.levels import row_length
from eqids.model.likelihood import active_clusters


def plain_loss(
    params: HierarchicalSoftmax, query: jax.Array, held: jax.Array, slot: jax.Array
) -> jax.Array:
    """By full log-softmaxes, with masks that are safe in gradients."""
    head = params
    up = query @ head.cluster_table.T + head.cluster_bias
    up = jax.nn.log_softmax(jnp.where(held.any(1), up, -1e30))
    inside = jnp.einsum("tw,crw->tcr", query, head.table) + head.bias
    inside = jax.nn.log_softmax(jnp.where(held, inside, -1e30), axis=-1)
    joint = (up[:, :, None] + inside).reshape(len(query), -1)
    chosen = jnp.take_along_axis(joint, jnp.maximum(slot, 0)[:, None], axis=1)
    return -jnp.where(slot >= 0, chosen[:, 0], 0.0).sum()


PLAIN = jax.jit(jax.value_and_grad(plain_loss, argnums=(0, 1)))


def brute_force(
    head: HierarchicalSoftmax, query: np.ndarray, slot: np.ndarray
) -> tuple[float, HierarchicalSoftmax, np.ndarray]:
    """Value and gradients in float64."""
    with jax.enable_x64(True):
        params = eqx.filter(head, eqx.is_inexact_array)
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        value, grads = PLAIN(
            wide, np.asarray(query, np.float64), np.asarray(head.valid), slot
        )
        return float(value), *jax.tree.map(np.asarray, grads)


def ours(
    head: HierarchicalSoftmax, query: jax.Array, slot: jax.Array
) -> tuple[jax.Array, tuple[HierarchicalSoftmax, jax.Array]]:
    params, rest = eqx.partition(head, eqx.is_inexact_array)

    def loss(params: HierarchicalSoftmax, query: jax.Array) -> jax.Array:
        return eqx.combine(params, rest).loss(query, slot)

    return jax.value_and_grad(loss, argnums=(0, 1))(params, query)


def of_log_prob(
    head: HierarchicalSoftmax, query: jax.Array, slot: jax.Array
) -> tuple[HierarchicalSoftmax, jax.Array]:
    params, rest = eqx.partition(head, eqx.is_inexact_array)

    def loss(params: HierarchicalSoftmax, query: jax.Array) -> jax.Array:
        return -eqx.combine(params, rest).log_prob(query, slot).sum()

    return jax.grad(loss, argnums=(0, 1))(params, query)


def handles_of(head: HierarchicalSoftmax, slot: jax.Array) -> ActiveClusters:
    """Handles of the clusters of slots, as many as there may be."""
    num_clusters, cluster_size = head.valid.shape
    most = min(len(slot), num_clusters)
    return head.handles(active_clusters(slot, num_clusters, cluster_size, most))


def in_blocks(
    head: HierarchicalSoftmax, query: jax.Array, slot: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The active clusters, and the gradients of their blocks."""
    handles, rest = eqx.partition(handles_of(head, slot), eqx.is_inexact_array)
    found = jax.grad(lambda h: head.loss(query, slot, eqx.combine(h, rest)))(handles)
    return rest.cluster, found.table, found.bias


OURS, OF_LOG_PROB, IN_BLOCKS = jax.jit(ours), jax.jit(of_log_prob), jax.jit(in_blocks)
SHAPES = ((1, 1, 3, 4), (5, 1, 4, 40), (1, 9, 4, 3), (6, 5, 8, 130), (300, 3, 2, 20))
"""Clusters, cluster_size, item_width and targets; few, because each is compiled."""


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.integers(0, 2**31 - 1), st.sampled_from([1, 30]))
def test_value_and_gradients_are_those_of_brute_force(
    shape: tuple[int, int, int, int], seed: int, scale: int
) -> None:
    """Empty places, empty clusters, targets that repeat, and none at all."""
    num_clusters, cluster_size, width, num_targets = shape
    rng = np.random.default_rng(seed)
    valid = rng.random((num_clusters, cluster_size)) < 0.7
    valid[rng.integers(num_clusters), rng.integers(cluster_size)] = True
    head = HierarchicalSoftmax(
        num_clusters, cluster_size, width, valid=valid, key=jax.random.key(seed)
    )
    head = jax.tree.map(lambda x: x * scale if x.dtype != bool else x, head)
    query = rng.standard_normal((num_targets, width)).astype(np.float32)
    held = np.flatnonzero(valid)
    slot = rng.choice(held[: 1 + rng.integers(len(held))], num_targets)
    slot = np.where(rng.random(num_targets) < 0.2, -1, slot).astype(np.int32)
    value, params, d_query = brute_force(head, query, slot)
    found, grads = OURS(head, query, slot)
    assert_close(found, np.float32(value), "float32")
    assert_close(grads, (params, d_query), "gradient")
    assert_close(OF_LOG_PROB(head, query, slot), (params, d_query), "gradient")
    cluster, table, bias = IN_BLOCKS(head, query, slot)
    active = np.unique(slot[slot >= 0] // cluster_size)
    assert cluster[: len(active)].tolist() == active.tolist()
    assert (np.asarray(cluster[len(active) :]) == num_clusters).all()
    assert_close(table[: len(active)], params.table[active], "gradient")
    assert_close(bias[: len(active)], params.bias[active], "gradient")
    assert not np.any(table[len(active) :]) and not np.any(bias[len(active) :])


def test_pieces_and_rows_of_any_size_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = HierarchicalSoftmax(7, 5, 4, key=jax.random.key(3))
    query = jax.random.normal(jax.random.key(4), (200, 4))
    slot = jax.random.randint(jax.random.key(5), (200,), -1, 35)
    whole = ours(head, query, slot)
    for piece in (1, 100, 1000):
        monkeypatch.setattr(levels, "PIECE", piece)
        assert_close(ours(head, query, slot), whole, "gradient")
    assert row_length(10, 1000) == 4 and row_length(3200, 41) == 32
    assert row_length(100, 10) == 16


def test_weights_count_each_target_and_a_missing_handle_is_loud() -> None:
    head = HierarchicalSoftmax(4, 3, 5, key=jax.random.key(0))
    query = jax.random.normal(jax.random.key(1), (6, 5))
    slot = jnp.array([0, 4, 4, -1, 11, 8])
    weight = jnp.array([0.5, 2.0, 0.0, 7.0, 1.0, 1.0])
    found = head.loss(query, slot, weight=weight)
    assert_close(found, -jnp.sum(head.log_prob(query, slot) * weight), "float32")
    assert bool(jnp.isnan(head.loss(query, slot, handles_of(head, slot[:3]))))


def test_memory_does_not_grow_with_targets_times_items() -> None:
    """Nor does the gradient in blocks with the catalog."""
    head = HierarchicalSoftmax(512, 64, 8, key=jax.random.key(0))
    query, slot = jnp.zeros((2048, 8)), jnp.zeros(2048, int)
    whole = OURS.lower(head, query, slot).compile().memory_analysis()
    assert whole.temp_size_in_bytes < 2**23 < 2048 * 512 * 64 * 4 / 30
    head = HierarchicalSoftmax(4096, 64, 8, key=jax.random.key(0))
    few = jnp.zeros(4, int)
    blocks = IN_BLOCKS.lower(head, query[:4], few).compile().memory_analysis()
    table = head.table.size * 4
    assert blocks.temp_size_in_bytes + blocks.output_size_in_bytes < table / 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_large_logits_and_clusters_of_one_stay_finite(dtype: str, size: float) -> None:
    """Logits up to 1e4, and tables in bfloat16, against float64 on the same values."""
    rng = np.random.default_rng(0)
    valid = np.zeros((6, 8), bool)
    valid[:3, :1], valid[3:5] = True, True
    head = HierarchicalSoftmax(6, 8, 16, valid=valid, key=jax.random.key(0))
    head = jax.tree.map(
        lambda x: (
            jnp.asarray(rng.standard_normal(x.shape) * size**0.5 / 4, dtype)
            if x.dtype == jnp.float32
            else x
        ),
        head,
    )
    query = jnp.asarray(rng.standard_normal((64, 16)) * size**0.5, dtype)
    slot = rng.choice(np.flatnonzero(valid), 64).astype(np.int32)
    value, params, d_query = brute_force(head, np.asarray(query, np.float64), slot)
    found, (grads, d_found) = ours(head, query, jnp.asarray(slot))
    assert np.abs(np.asarray(head.log_probs(query)).min()) > size / 10
    name = "large" if dtype == "float32" else "bfloat16"
    assert found.dtype == jnp.float32 and grads.table.dtype == jnp.dtype(dtype)
    for one, two in zip(
        jax.tree.leaves((found, grads, d_found)),
        jax.tree.leaves((np.float64(value), params, d_query)),
        strict=True,
    ):
        assert bool(jnp.isfinite(one).all())
        scale = max(1.0, np.abs(two).max())
        assert_close(np.asarray(one, np.float64) / scale, two / scale, name)


MESH = """
import json, re
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import sharding
from eqids.model import HierarchicalSoftmax

rng = np.random.default_rng(0)
valid = rng.random((16, 7)) < 0.8
valid[3] = False
head = HierarchicalSoftmax(16, 7, 8, valid=valid, key=jax.random.key(0))
query = jnp.asarray(rng.standard_normal((16, 5, 8)), jnp.float32)
slot = rng.choice(np.flatnonzero(valid), (16, 5)).astype(np.int32)
slot[0, :3] = -1
params, rest = eqx.partition(head, eqx.is_inexact_array)

def loss(params, rest, query, slot):
    head = eqx.combine(params, rest)
    both = head.loss(query, slot), head.log_prob(query, slot)
    return both[0], both[1]

step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))
expected = jax.tree.leaves(step(params, rest, query, jnp.asarray(slot)))
found = {}
for name, clusters in (("data", ()), ("data", ("data",)), ("fsdp", ("fsdp",)),
                       ("tensor", ("fsdp", "tensor")), ("tensor", ("fsdp",))):
    layout = sharding.named_layout(name, 8)
    mesh = sharding.make_mesh(layout)
    rows = P("data" if name == "data" else "fsdp")
    with jax.set_mesh(mesh):
        put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
        blocks = lambda x: put(x, P(clusters) if clusters else P())
        args = (jax.tree.map(blocks, params), jax.tree.map(blocks, rest),
                put(query, rows), put(jnp.asarray(slot), rows))
        text = step.lower(*args).compile().as_text()
        out = step(*args)
        split = str(jax.typeof(out[1][0].table).sharding.spec)
        errors = [float((np.abs(a - b) / np.maximum(1, np.abs(b).max())).max())
                  for a, b in zip(jax.tree.leaves(out), expected, strict=True)]
        found[f"{name} {clusters}"] = max(errors), split
        if clusters:
            # Rows are gathered (80 x 8); a shard's table is 2 x 7 x 8, whole 896.
            sent = re.findall(r"f32.([0-9,]+).\\S* all-(?:gather|reduce)", text)
            assert sent and not [x for x in sent if ",7" in x], sent
print(json.dumps(found))
"""


@pytest.mark.long
def test_the_same_on_a_table_that_is_split_and_never_gathered() -> None:
    found = json.loads(run_python(MESH).splitlines()[-1])
    assert len(found) == 5
    for name, (error, split) in found.items():
        assert_close(error, 0.0, "mesh")
        axes = name.split("(")[1].strip(")").replace("'", "").replace(" ", "")
        assert all(axis in split for axis in axes.split(",") if axis), name
