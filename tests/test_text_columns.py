"""Item vectors with frozen text columns: the model against brute force in numpy."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, run_python
from models import FLOAT32
from test_softmax import brute_force

from eqids.config import NANO_RECIPE, LlamaConfig, ModelConfig
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import make_step, split, start, with_text
from eqids.fit.step_config import StepConfig
from eqids.fit.strategy import stored, text_of, trainable, without_text
from eqids.model import Batch, EqIDs, HierarchicalSoftmax, TextFeatures
from eqids.model.rank import ranks
from sharding import words

LEARNED, TEXT = 5, 3
SIZES = ModelConfig(
    LlamaConfig(16, 2, 2, 2, 8, 24, 8, tied=True), 6, 4, item_width=LEARNED + TEXT,
    text_width=TEXT, encoding_width=7, adapter="linear", id_dropout=0.5,
)  # fmt: skip


def some_head(seed: int = 0) -> tuple[HierarchicalSoftmax, jax.Array]:
    """A head with an empty cluster, empty places and an item without text; queries."""
    rng = np.random.default_rng(seed)
    valid = rng.random((6, 4)) < 0.7
    valid[:, 0], valid[2] = True, False
    text = rng.standard_normal((6, 4, TEXT)).astype(np.float32)
    text[1, 0] = 0
    head = HierarchicalSoftmax(
        6,
        4,
        LEARNED + TEXT,
        valid=valid,
        text=jnp.asarray(text),
        key=jax.random.key(seed),
    )
    noise = rng.standard_normal(head.table.shape).astype(np.float32)
    head = eqx.tree_at(lambda h: h.table, head, head.table + noise)
    query = rng.standard_normal((9, LEARNED + TEXT)).astype(np.float32)
    return head, jnp.asarray(query)


def whole(head: HierarchicalSoftmax) -> HierarchicalSoftmax:
    """The same head with all columns in its table."""
    assert head.text is not None
    table = jnp.asarray(np.concatenate([head.table, head.text], axis=-1))
    return eqx.tree_at(
        lambda h: (h.table, h.text), head, (table, None), is_leaf=lambda x: x is None
    )


def test_probabilities_ranks_and_top_k_are_those_of_the_joined_vectors() -> None:
    head, query = some_head()
    words(head)
    expected = brute_force(whole(head), np.asarray(query))
    slots = np.flatnonzero(np.asarray(head.valid))[:9].astype(np.int32)
    scores = np.asarray(head.log_probs(query))
    held = np.isfinite(expected)
    assert np.array_equal(np.isfinite(scores), held)
    assert_close(scores[held], expected[held], "float32")
    own = expected[np.arange(9), slots]
    at = jnp.asarray(slots)
    assert_close(head.log_prob(query, at), own, "float32")
    found = head.top_k(query, 4)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :4]
    assert np.array_equal(found.slots, order) and bool(found.exact.all())
    ranked = ranks(head, query, at, jnp.full((9, 1), -1))
    above = (expected > own[:, None]).sum(axis=1)
    assert np.array_equal(ranked[:, 1], 1.0 + above)
    assert_close(ranked[:, 2], own, "float32")


def test_gradients_reach_the_learned_columns_only() -> None:
    head, query = some_head(1)
    slots = np.flatnonzero(np.asarray(head.valid))[::2][:9].astype(np.int32)
    query = query[: len(slots)]

    def loss(head: HierarchicalSoftmax, query: jax.Array) -> jax.Array:
        return head.loss(query, jnp.asarray(slots))

    grads, d_query = jax.grad(loss, argnums=(0, 1), allow_int=True)(head, query)
    joined, q = whole(head), np.asarray(query, np.float64)
    probs = np.exp(brute_force(joined, q))
    of_cluster = probs.reshape(len(slots), 6, 4).sum(axis=2)
    d_table, d_q = np.zeros((6, 4, LEARNED + TEXT)), np.zeros(q.shape)
    table, clusters = np.asarray(joined.table), np.asarray(joined.cluster_table)
    for row, slot in enumerate(slots):
        cluster, place = divmod(int(slot), 4)
        inside = probs.reshape(-1, 6, 4)[row, cluster] / of_cluster[row, cluster]
        error = inside - (np.arange(4) == place)
        d_table[cluster] += error[:, None] * q[row]
        up = of_cluster[row] - (np.arange(6) == cluster)
        d_q[row] = error @ table[cluster] + up @ clusters
    assert_close(grads.table, d_table[..., :LEARNED], "float32")
    assert_close(d_query, d_q, "float32")
    assert not np.any(grads.text)
    assert grads.cluster_table.shape == (6, LEARNED + TEXT)
    assert np.abs(grads.cluster_table[:, LEARNED:]).max() > 0


def some_model(**changes: object) -> EqIDs:
    rng = np.random.default_rng(3)
    columns = rng.standard_normal((6, 4, TEXT)).astype(np.float32)
    columns[0, 1] = 0
    text = TextFeatures(columns, np.zeros(7, np.float32), np.ones((3, 7), np.float32))
    sizes = dataclasses.replace(SIZES, **changes)  # type: ignore[arg-type]
    return EqIDs(sizes, text=text, key=jax.random.key(0))


def some_batch(rows: int = 8) -> Batch:
    rng = np.random.default_rng(4)
    items, target = rng.integers(0, 24, (2, rows, 6)).astype(np.int32)
    zeros = np.zeros((rows, 6), np.int32)
    position = np.tile(np.arange(6, dtype=np.int32), (rows, 1))
    arrays = zeros, items, zeros, zeros + 1, position, target
    return Batch(*map(jnp.asarray, arrays))


def test_hidden_items_keep_their_text_alone() -> None:
    model, batch = some_model(), some_batch()
    slots = np.asarray(batch.items)
    learned = np.asarray(model.softmax.table).reshape(24, -1)[slots]
    text = np.asarray(model.softmax.text).reshape(24, -1)[slots]
    read = model.item_vectors(batch.items, FLOAT32)
    assert np.array_equal(read, np.concatenate([learned, text], axis=-1))
    drawn = np.asarray(model.item_vectors(batch.items, FLOAT32, key=jax.random.key(1)))
    assert np.array_equal(drawn[..., LEARNED:], text)
    hidden = ~drawn[..., :LEARNED].any(axis=-1)
    assert np.array_equal(drawn[~hidden], np.asarray(read)[~hidden])
    assert 0.3 < hidden.mean() < 0.7
    assert not hidden[slots == 1].any() and (slots == 1).any()  # it has no text


def test_hidden_targets_are_predicted_by_text_alone() -> None:
    """With every target hidden, learned columns do not change the loss."""
    batch = some_batch()
    model = some_model(id_dropout=1.0)
    other = eqx.tree_at(lambda m: m.softmax.table, model, replace_fn=lambda x: x + 1.0)
    key = jax.random.key(2)
    hidden = [m.loss(batch, key=key)[0] for m in (model, other)]
    shown = [m.loss(batch)[0] for m in (model, other)]
    # Items without a text are read whole: the inputs differ there, the scores do not.
    text = jnp.asarray(np.where(np.asarray(batch.items) == 1, 0, batch.items))
    batch = dataclasses.replace(batch, items=text)
    hidden = [m.loss(batch, key=key)[0] for m in (model, other)]
    assert_close(hidden[0], hidden[1], "float32")
    assert abs(float(shown[0] - shown[1])) > 1e-2


@pytest.mark.parametrize("strategy", ["heads", "all"])
def test_text_does_not_train_and_checkpoints_hold_it(strategy: str) -> None:
    model = some_model(tied_items=False)
    learns, held = (f(model, strategy) for f in (trainable, stored))  # type: ignore
    names = ("text", "table", "bias")
    of = {name: getattr(learns.softmax, name) for name in names}
    assert of == {"text": False, "table": True, "bias": True}
    assert learns.text_axes.axes is False and learns.text_axes.mean is False
    changed = jax.tree.map(lambda one, other: one != other, learns, held)
    assert sum(jax.tree.leaves(changed)) == 3
    params, frozen = split(model, strategy, FLOAT32)  # type: ignore[arg-type]
    assert params.softmax.text is None and frozen.softmax.text is not None
    state = with_text(start(params, make_optimizer(step_config("dense"))), frozen)
    assert len(jax.tree.leaves(text_of(state.params))) == 3
    again = jax.tree.structure(without_text(state.params))
    assert again == jax.tree.structure(params)


def step_config(items: str) -> StepConfig:
    recipe = dataclasses.replace(NANO_RECIPE, num_steps=9, warmup_steps=0)
    return StepConfig("all", recipe, item_optimizer=items)  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_the_sparse_update_is_the_dense_one(tied: bool) -> None:
    """In the first step, in which every cluster is active; text columns stay."""
    model, batch, ends = some_model(tied_items=tied), some_batch(), {}
    text = np.asarray(model.softmax.text)
    for items in ("dense", "lazy_adam"):
        params, frozen = split(jax.tree.map(jnp.copy, model), "all", FLOAT32)
        state = start(params, make_optimizer(step_config(items)))
        active = None if items == "dense" else jnp.arange(6)
        step = make_step(step_config(items))
        state, metrics = step(state, frozen, batch, jax.random.key(5), active)
        sizes = {x.shape[2:] for x in jax.tree.leaves(state.optimizer)
                 if x.shape[:2] == (6, 4)}  # fmt: skip
        assert sizes == {(), (LEARNED,)}  # of biases and vectors
        ends[items] = state.params, metrics
        np.testing.assert_array_equal(frozen.softmax.text, text)
    for one, other in zip(*map(jax.tree.leaves, ends.values()), strict=True):
        assert_close(one, other, "float32")
    moved = np.abs(np.asarray(ends["dense"][0].softmax.table - model.softmax.table))
    assert moved.max() > 1e-4


MESH = """
import sys; sys.path.insert(0, 'tests')
import json
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from test_text_columns import some_batch, some_model, step_config
from eqids.fit.gate import with_lift
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import make_step, split, start
from eqids.model import recent_items
from eqids.model.rank import ranks
from sharding import Placement, beside, make_mesh, named_layout

batch, found = some_batch(16), {}
seen = jnp.full((16, 1), -1)
for name in (None, "2x2x2", "1x8x1"):
    layout = None if name is None else named_layout(name, 8)
    put = Placement(layout, None if layout is None else make_mesh(layout))
    with put.active():
        model = put(some_model(tied_items=False, skip=True))
        losses = []
        for items in ("dense", "lazy_adam"):
            params, frozen = split(jax.tree.map(jnp.copy, model), "all", "float32")
            state, step = start(params, make_optimizer(step_config(items))), make_step(
                step_config(items))
            active = None
            if items != "dense":
                num = params.softmax.table.shape[0]
                active = beside(np.arange(num, dtype=np.int32), params.softmax.table)
            for _ in range(3):
                args = state, frozen, put(batch), jax.random.key(7), active
                state, metrics = step(*args)
                losses += [float(metrics.loss), float(metrics.grad_norm)]
            assert step._cache_size() == 1
        whole = eqx.combine(state.params, frozen)
        placed = put(batch)
        last = placed.position[:, -1]
        query = whole.queries_at(placed, last, dtype="float32")
        recent = recent_items(placed.items, placed.segment, last)
        lifted = with_lift(whole, 3.0).lifted(query, recent)
        assert float(jnp.abs(lifted - query).max()) > 0.1
        query = lifted
        rank = np.asarray(ranks(whole.softmax, query, placed.target[:, -1], seen))
        best = whole.softmax.top_k(query, 5)
        found[str(name)] = losses, rank.tolist(), np.asarray(best.slots).tolist()
print(json.dumps(found))
"""


@pytest.mark.long
def test_eight_devices_train_rank_and_search_as_one() -> None:
    found = json.loads(run_python(MESH).splitlines()[-1])
    losses, rank, slots = found.pop("None")
    for others in found.values():
        assert_close(others[0], losses, "mesh")
        np.testing.assert_array_equal(np.array(others[1])[:, :2], np.array(rank)[:, :2])
        assert others[2] == slots
