"""What a served model answers, against the whole catalog sorted for one history."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, settings, strategies as st
from served import NOW, left, opened_model, oracle

from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine import batching, shapes as shapes_module
from eqids.inference.engine.batching import PreparedQuery, cheapest, plan
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.shapes import Shapes
from eqids.inference.engine.values import Query, Recommendations, SlotFilter
from eqids.inference.histories import History
from eqids.model import HierarchicalSoftmax
from eqids.model.scores import log_probs_of_slots
from eqids.model.similar import nearest_items

Oracle = Callable[[History], np.ndarray]


@pytest.fixture(scope="module")
def served(dataset: Dataset) -> ServedModel:
    """Each query has a mask."""
    return ServedModel(opened_model(dataset), max_batch=4, max_k=20)


@pytest.fixture(scope="module")
def listed(served: ServedModel) -> ServedModel:
    """Queries leave slots out by lists, and longer lists become masks of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_module, "_MASKED", 0)
        patch.setattr(shapes_module, "_WIDTHS", (8,))
        patch.setattr(shapes_module, "_MASK_BYTES", 2 * served.dataset.num_slots)
        return ServedModel(served.opened, max_batch=4, max_k=20, programs_of=served)


@pytest.fixture(scope="module")
def by_sorting(served: ServedModel) -> Oracle:
    return oracle(served.opened)


@st.composite
def queries(draw: st.DrawFn, dataset: Dataset) -> Query:
    """Any query of a dataset's user, or of one without history."""
    user = draw(st.integers(0, dataset.num_users - 1))
    span = slice(dataset.offsets[user], dataset.offsets[user + 1])
    stop = draw(st.integers(0, int(dataset.offsets[user + 1] - dataset.offsets[user])))
    slots, times = dataset.slots[span][:stop], dataset.times[span][:stop]
    asked = NOW + draw(st.sampled_from([0, 100, 10**6]))
    history = History(user, slots, times if draw(st.booleans()) else None, asked)
    some = st.lists(st.integers(0, dataset.num_slots - 1), max_size=12)
    allow = draw(st.none() | some)
    deny = draw(st.none() | some)
    valid = dataset.item_valid
    return Query(
        history,
        draw(st.integers(1, 20)),
        draw(st.booleans()),
        None if allow is None else SlotFilter.of(np.array(allow, np.int32), valid),
        None if deny is None else np.array(deny, np.int32),
    )


def assert_answered(
    query: Query, answer: Recommendations, dataset: Dataset, by_sorting: Oracle
) -> None:
    """Holds an answer to the sorted catalog."""
    may = left(query, dataset)
    if len(query.history.slots):
        prob = np.exp(by_sorting(query.history))
    else:
        counts = np.where(dataset.item_valid, dataset.item_counts, 0).reshape(-1)
        prob = counts / counts.sum()
    assert answer.popularity == (not len(query.history.slots))
    order = np.argsort(-np.where(may, prob, -1.0), kind="stable")
    expected = order[: min(query.k, int(may.sum()))]
    assert len(answer.slots) == len(expected) and may[answer.slots].all()
    assert len(set(answer.slots.tolist())) == len(expected)
    np.testing.assert_allclose(answer.probabilities, prob[expected], atol=1e-6)
    np.testing.assert_allclose(prob[answer.slots], prob[expected], atol=1e-6)


@settings(max_examples=25)
@given(data=st.data())
def test_answers_are_the_sorted_catalog(
    data: Any, served: ServedModel, listed: ServedModel, by_sorting: Oracle
) -> None:
    dataset = served.dataset
    given = data.draw(st.lists(queries(dataset), min_size=1, max_size=9))
    for model in (served, listed):
        for query, answer in zip(given, model.answer(given), strict=True):
            assert_answered(query, answer, dataset, by_sorting)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["text", "prompt"])
def test_texts_and_prompts_take_positions(kind: Any, dataset: Dataset) -> None:
    opened = opened_model(dataset, kind)
    served, by_sorting = ServedModel(opened, max_batch=4, max_k=4), oracle(opened)
    given = [
        Query(History(0, dataset.history(0)[:n], None, NOW), 4)
        for n in (1, 2, 3, 5, 8, 30)
    ]
    for query, answer in zip(given, served.answer(given), strict=True):
        assert_answered(query, answer, dataset, by_sorting)
    lengths = [served.prepare(query).length for query in given]
    assert lengths[0] < 16 < lengths[-1] <= 24
    assert lengths[:3] == sorted(set(lengths[:3]))


@given(
    st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=7).map(sorted),
    st.sampled_from([(1,), (1, 4), (2, 3), (4,)]),
    st.sampled_from([0, 10, 100]),
)
def test_batches_take_the_fewest_positions(
    lengths: list[int], rows: tuple[int, ...], cost: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "_BATCH_COST", cost)
        found = cheapest(lengths, rows)

    def costs(order: list[tuple[int, int]]) -> int:
        """Of consecutive batches, each with its members and its rows."""
        total, start = 0, 0
        for members, size in order:
            start += members
            total += size * lengths[start - 1] + cost
        return total

    def divisions(left: int) -> Iterator[list[tuple[int, int]]]:
        if not left:
            yield []
        for size in rows:
            for members in range(1, min(size, left) + 1):
                for rest in divisions(left - members):
                    yield [(members, size), *rest]

    parts = [(part.stop - part.start, size) for part, size in reversed(found)]
    assert sum(members for members, _ in parts) == len(lengths)
    assert all(1 <= members <= size for members, size in parts)
    assert costs(parts) == min(map(costs, divisions(len(lengths))))


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 90)),
        max_size=40,
    )
)
def test_every_query_is_in_one_batch_that_holds_it(
    drawn: list[tuple[int, int, int]],
) -> None:
    shapes = Shapes([1, 4, 8], [16, 50], [8, 30], [4, 64], [1, 4])
    valid = np.ones((10, 10), bool)
    filters = SlotFilter(valid), SlotFilter(valid)
    given = [
        PreparedQuery(
            HostBatch.empty(1, n), k, filters[k % 2], np.arange(out, dtype=np.int32)
        )
        for n, k, out in drawn
    ]
    found = plan(given, shapes)
    members = [i for batch in found for i in batch.members]
    assert sorted(members) == list(range(len(given)))
    firsts = [min(batch.members) for batch in found]
    assert firsts == sorted(firsts)
    for batch in found:
        own = [given[i] for i in batch.members]
        assert len(own) <= batch.rows
        if not batch.length:
            assert not any(one.length for one in own)
            continue
        assert batch.rows in shapes.rows and batch.length in shapes.lengths
        assert all(0 < one.length <= batch.length and one.k <= batch.k for one in own)
        assert batch.k in shapes.ks
        if batch.width is None:
            assert batch.rows in shapes.masked_rows
        else:
            assert batch.width in shapes.widths
            assert all(len(one.left_out) <= batch.width for one in own)
            assert len({one.allow for one in own}) == 1


def test_filters_that_are_used_once_share_a_batch() -> None:
    shapes = Shapes([1, 4, 8], [16, 50], [8], [4], [1, 4, 8])
    none = np.zeros(0, np.int32)
    row, shared = HostBatch.empty(1, 9), SlotFilter(np.ones((10, 10), bool))
    filters = [SlotFilter(np.ones((10, 10), bool)) for _ in range(5)]
    given = [PreparedQuery(row, 8, one, none) for one in (*filters, shared, shared)]
    masks, lists = plan(given, shapes)
    assert masks.members == [0, 1, 2, 3, 4] and masks.width is None
    assert lists.members == [5, 6] and lists.width == 4
    (only,) = plan(given[:1], shapes)
    assert only.width == 4


def test_scores_are_exact(served: ServedModel, by_sorting: Oracle) -> None:
    dataset = served.dataset
    slots = np.resize(np.arange(dataset.num_slots), 150)
    histories = [History(u, dataset.history(u)[:n], None, NOW) for u, n in
                 itertools.product((0, 3, 4), (0, 1, 20))]  # fmt: skip
    found = served.log_probs(histories, slots)
    for row, history in zip(found, histories, strict=True):
        if len(history.slots):
            assert_close(np.exp(row), np.exp(by_sorting(history)[slots]), "float32")
            assert np.array_equal(np.isneginf(row), ~dataset.item_valid.flat[slots])
        else:
            shares = dataset.item_counts / dataset.item_counts.sum()
            assert_close(np.exp(row), shares.reshape(-1)[slots], "float32")


def test_vectors_are_those_of_the_model(served: ServedModel) -> None:
    """The dot product of a query and an item is the logit, but for the bias."""
    dataset, model = served.dataset, served.opened.model
    histories = [History(u, dataset.history(u), None, NOW) for u in (0, 3)]
    histories.append(History(1, dataset.history(0)[:0]))
    items, users = served.item_vectors(), served.query_vectors(histories)
    assert not users[2].any()
    counts, gate = model.successors, 0.25
    assert counts is not None and float(counts.gate) == pytest.approx(gate)
    for user, history in zip(jnp.asarray(users[:2]), histories, strict=False):
        logits = items @ user + np.asarray(model.softmax.bias)
        logits = np.where(dataset.item_valid, logits, -np.inf)
        inside = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        softmax = np.asarray(model.softmax.log_probs(user)).reshape(inside.shape)
        up = np.asarray(model.softmax.cluster_log_probs(user))
        some = dataset.item_valid
        assert_close(softmax[some], (inside + up[:, None])[some], "float32")
        slots = np.flatnonzero(some)
        mixed = np.exp(served.log_probs([history], slots)[0])
        assert np.all(mixed >= (1 - gate) * np.exp(softmax[some]) * (1 - 1e-5))


def test_similar_items_have_the_largest_cosines(served: ServedModel) -> None:
    dataset = served.dataset
    slots = np.flatnonzero(dataset.item_valid)[:6]
    vectors = served.item_vectors().reshape(dataset.num_slots, -1).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for k, some in ((5, slots), (20, slots[:1])):
        found, cosines = served.similar(some, k)
        for slot, own, values in zip(some, found, cosines, strict=True):
            cosine = unit @ unit[slot]
            cosine[slot], cosine[~dataset.item_valid.reshape(-1)] = -2, -2
            assert_close(values, np.sort(cosine)[::-1][:k], "float32")
            assert_close(values, cosine[own], "float32")
            assert slot not in own and len(set(own.tolist())) == k


def test_what_is_no_query_is_refused(served: ServedModel) -> None:
    history = History(0, served.dataset.history(0))
    strange = History(0, np.array([0, 30], np.int32))
    for query, said in (
        (Query(history, 0), "k is 0, wanted 1 to 20"),
        (Query(history, 21), "k is 21, wanted 1 to 20"),
        (Query(strange, 3), "a slot is not of the catalog"),
        (Query(history, 3, deny=np.array([-1], np.int32)), "a slot is not of"),
    ):
        with pytest.raises(UserError, match=said):
            served.answer([query])
    with pytest.raises(UserError, match="k is 21, wanted 1 to 20"):
        served.similar(np.array([1]), 21)


def test_text_columns_count_in_scores_and_similar_items() -> None:
    text = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    valid = np.arange(20).reshape(4, 5) % 7 != 0
    softmax = HierarchicalSoftmax(
        4, 5, 8, valid=valid, text=jnp.asarray(text), key=jax.random.key(0)
    )
    hidden = 3.0 * jax.random.normal(jax.random.key(1), (3, 8))
    slot = jnp.asarray([19, 3, 3, 0, 11], jnp.int32)
    found = jax.jit(log_probs_of_slots)(softmax, hidden, slot)
    assert_close(jnp.exp(found), jnp.exp(softmax.log_probs(hidden)[:, slot]), "float32")
    near = jax.jit(nearest_items, static_argnums=2)(softmax, slot[:2], 6)
    vectors = np.concatenate([softmax.table, text], axis=-1).reshape(20, 8)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, own in enumerate([19, 3]):
        cosine = np.where(valid.reshape(-1), unit @ unit[own], -np.inf)
        cosine[own] = -np.inf
        assert near.slots[row].tolist() == np.argsort(-cosine)[:6].tolist()
