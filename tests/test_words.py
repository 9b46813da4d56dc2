"""Words beside items: batches against plain Python, and nothing that leaks."""

import copy
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from models import FLOAT32, NOWHERE, TINY, tiny_model

from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.batches.event_gaps import gap_buckets
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.token_packing import Events, TokenPackingPlan
from eqids.data.batches.tokens import ItemTokens, tokens_by_slot
from eqids.data.batches.training_batches import (
    BatchConfig,
    TrainingBatches,
    last_positions,
    query_batch,
)
from eqids.fit.evaluation import chunks, evaluate, make_ranker
from eqids.model import Batch, EqIDs

VOCAB = TINY.vocab


def random_words(
    dataset: Dataset, seed: int, per_item: int, prompt: int, longest: int = 9
) -> ItemTokens:
    """Words of random numbers for every item that there is, of some items none."""
    rng = np.random.default_rng(seed)
    held = (dataset.item_valid | dataset.retired).reshape(-1)
    length = np.where(held, rng.integers(0, longest + 1, dataset.num_slots), 0)
    offsets = np.concatenate([[0], np.cumsum(length)])
    ids = rng.integers(0, VOCAB, offsets[-1]).astype(np.int32)
    prefix = rng.integers(0, VOCAB, prompt).astype(np.int32)
    return tokens_by_slot(ids, offsets, prefix, per_item)


def naive(
    slots: np.ndarray, gaps: np.ndarray, tokens: ItemTokens, texts: list[list[int]]
) -> dict[str, list[int]]:
    """A history as positions, one after the other; targets are its next items."""
    rows = [(int(w), -1, 0, -1) for w in tokens.prompt]
    for n, slot in enumerate(slots[:-1]):
        rows.append((0, int(slot), int(gaps[n]), -1))
        rows += [(w, -1, 0, -1) for w in texts[slot]]
        rows[-1] = (*rows[-1][:3], int(slots[n + 1]))
    columns = zip(*rows, strict=True)
    return dict(
        zip(("tokens", "items", "gap", "target"), map(list, columns), strict=True)
    )


def texts_of(tokens: ItemTokens) -> list[list[int]]:
    spans = zip(tokens.first, tokens.length, strict=True)
    return [
        [int(w) for w in tokens.ids[a : a + min(n, tokens.per_item)]] for a, n in spans
    ]


sizes = st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(0, 4))


@settings(max_examples=40)
@given(sizes, st.integers(0, 500), st.integers(0, 40), st.booleans())
def test_batches_are_what_plain_python_lays_out(
    dataset: Dataset, drawn: tuple[int, int, int], k: int, more: int, ties: bool
) -> None:
    """Each segment is the prompt and a run of training events with their words."""
    tokens = random_words(dataset, *drawn)
    seq_len, texts = tokens.least_seq_len + more, texts_of(tokens)
    config = BatchConfig(seq_len, 3, seed=drawn[0], shuffle_ties=ties)
    batch = TrainingBatches(dataset, config, tokens).batch(k)
    again = TrainingBatches(dataset, config, tokens).batch(k, slice(1, 3))
    arrays = {n: array for n, array in vars(batch).items() if array is not None}
    for name, array in arrays.items():
        assert array.dtype == np.int32 and array.shape == (3, seq_len)
        np.testing.assert_array_equal(array[1:], getattr(again, name))
    for row in range(3):
        for segment in range(1, batch.segment[row].max() + 1):
            at = np.flatnonzero(batch.segment[row] == segment)
            np.testing.assert_array_equal(batch.position[row][at], np.arange(len(at)))
            np.testing.assert_array_equal(np.diff(at), 1)
            found = {name: array[row][at] for name, array in arrays.items()}
            inputs, targets = (
                found[name][found[name] >= 0] for name in ("items", "target")
            )
            run = np.append(inputs, targets[-1])
            gaps = found["gap"][found["items"] >= 0]
            for name, column in naive(run, gaps, tokens, texts).items():
                assert found[name].tolist() == column, name
            assert is_run(dataset, run, gaps, ties)
    padding = batch.segment == 0
    for name, empty in (("items", -1), ("target", -1), ("tokens", 0)):
        assert np.all(getattr(batch, name)[padding] == empty)


def is_run(dataset: Dataset, run: np.ndarray, gaps: np.ndarray, ties: bool) -> bool:
    """Whether a run of training events has these items and, unless hidden, gaps."""
    assert dataset.times is not None
    for user, trained in enumerate(dataset.train_length):
        first = dataset.offsets[user]
        for start in range(first, first + trained - len(run) + 1):
            span = slice(start, start + len(run))
            slots = dataset.slots[span]
            same = (
                sorted(slots) == sorted(run) if ties else slots.tolist() == run.tolist()
            )
            wanted = gap_buckets(dataset.times[span], len(run))[:-1]
            if same and (not gaps.any() or gaps.tolist() == wanted.tolist()):
                return True
    return False


@settings(max_examples=60)
@given(st.data())
def test_every_pair_is_covered_once_and_rows_never_overflow(data: Any) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    lengths = rng.integers(1, 20, data.draw(st.integers(1, 12)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    train = np.maximum(lengths - rng.integers(0, 3, len(lengths)), 0)
    longest, prompt = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 4))
    size = rng.integers(1, longest + 1, offsets[-1])
    tied = rng.random(offsets[-1]) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    seq_len = prompt + longest + data.draw(st.integers(0, 30))
    plan = TokenPackingPlan(Events(offsets, train, size, tied), prompt, seq_len, seed=3)
    expected = {(u, i) for u, n in enumerate(train) for i in range(n - 1)}
    assert plan.num_targets == len(expected)
    index = 0
    for epoch in range(6):
        drawn = plan.epoch(epoch)
        windows = list(zip(drawn.user, drawn.start, drawn.length, strict=True))
        covered = Counter((int(u), int(s) + i) for u, s, n in windows for i in range(n))
        assert set(covered) == expected and set(covered.values()) <= {1}
        for row in range(len(drawn.row_start) - 1):
            assert plan.locate(index) == (epoch, row)
            index += 1
            free = 0
            for w in range(drawn.row_start[row], drawn.row_start[row + 1]):
                assert drawn.offset[w] >= free
                first = offsets[drawn.user[w]] + drawn.start[w]
                last = first + drawn.length[w]
                # Of the events that may come last, the shortest leaves most to read.
                run = last
                while run > first and tied[run]:
                    run -= 1
                most = size[first : last + 1].sum() - size[run : last + 1].min()
                free = drawn.offset[w] + prompt + most
            assert 0 < free <= seq_len


def test_cuts_and_order_are_the_seeds(dataset: Dataset) -> None:
    tokens = random_words(dataset, 1, 6, 2)
    first, second, third = (
        TrainingBatches(dataset, BatchConfig(24, 4, seed=seed), tokens).batch(5)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.items, second.items)
    assert not np.array_equal(first.items, third.items)


def test_rows_waste_little(dataset: Dataset) -> None:
    tokens = random_words(dataset, 1, 6, 2)
    batches = TrainingBatches(dataset, BatchConfig(48, 4, shuffle_ties=False), tokens)
    used = [np.mean(batches.batch(k).segment > 0) for k in range(40)]
    # Windows end with whole items, so that up to six positions stay free.
    assert np.mean(used) > 0.9


@given(sizes, st.integers(0, 30), st.integers(0, 999))
def test_queries_are_the_end_of_a_history_laid_out_as_in_training(
    dataset: Dataset, drawn: tuple[int, int, int], more: int, pick: int
) -> None:
    tokens = random_words(dataset, *drawn)
    seq_len, texts = tokens.least_seq_len + more, texts_of(tokens)
    user = pick % dataset.num_users
    slots, times = dataset.history(user), None
    if pick % 2:
        assert dataset.times is not None
        times = dataset.times[dataset.offsets[user] : dataset.offsets[user + 1]]
    kept = max(
        n for n in range(1, len(slots) + 1)
        if len(tokens.prompt) + sum(1 + len(texts[s]) for s in slots[-n:]) <= seq_len
    )  # fmt: skip
    batch = query_batch([slots, slots[:1]], [times, None], seq_len, tokens)
    gaps = gap_buckets(None if times is None else times[-kept:], kept)
    for row, (history, of) in enumerate([(slots[-kept:], gaps), (slots[:1], [0])]):
        wanted = naive(np.append(history, 0), np.array(of), tokens, texts)
        size = len(wanted["items"])
        for name in ("tokens", "items", "gap"):
            assert getattr(batch, name)[row, :size].tolist() == wanted[name]
        assert batch.segment[row].sum() == size
        assert last_positions(batch)[row] == size - 1
        assert wanted["target"][size - 1] == 0
    assert np.all(batch.target == -1)


def test_rows_must_hold_the_prompt_and_an_item_with_its_words(dataset: Dataset) -> None:
    tokens = random_words(dataset, 1, 6, 2)
    said = "--seq_len is 8, wanted at least 9 positions: 2 of the prompt"
    with pytest.raises(UserError, match=said):
        TrainingBatches(dataset, BatchConfig(8, 4), tokens)
    with pytest.raises(UserError, match=said):
        make_ranker(8, FLOAT32, NOWHERE, tokens)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> EqIDs:
    return tiny_model(dataset)


ask = jax.jit(EqIDs.queries)


@settings(max_examples=25)
@given(sizes, st.integers(0, 500), st.data())
def test_nothing_from_the_target_on_changes_its_prediction(
    dataset: Dataset, model: EqIDs, drawn: tuple[int, int, int], k: int, data: Any
) -> None:
    """What follows a target may be anything."""
    tokens = random_words(dataset, *drawn)
    config = BatchConfig(32, 2, seed=drawn[0])
    arrays = TrainingBatches(dataset, config, tokens).batch(k)
    row, at = data.draw(st.sampled_from(np.argwhere(arrays.target >= 0).tolist()))
    # The next position is the target itself, or beyond the window; not a word of it.
    segment = arrays.segment[row]
    if at + 1 < 32 and segment[at + 1] == segment[at]:
        assert arrays.items[row, at + 1] == arrays.target[row, at]
    rng = np.random.default_rng(k)
    changed = copy.deepcopy(arrays)
    after = slice(at + 1, None)
    changed.tokens[row, after] = rng.integers(0, VOCAB, 31 - at)
    is_item = rng.random(31 - at) < 0.5
    items = rng.choice(np.flatnonzero(dataset.item_valid), 31 - at)
    changed.items[row, after] = np.where(is_item, items, -1)
    changed.gap[row, after] = rng.integers(0, 9, 31 - at)
    one, two = (ask(model, Batch.of(batch)) for batch in (arrays, changed))
    np.testing.assert_array_equal(one[row, : at + 1], two[row, : at + 1])


def test_a_targets_text_is_not_read_before_it_is_predicted(
    dataset: Dataset, model: EqIDs
) -> None:
    """An item's text is changed: only positions after the item see that."""
    tokens = random_words(dataset, 3, 6, 2)
    slot = int(
        np.bincount(dataset.slots, weights=tokens.length[dataset.slots]).argmax()
    )
    span = slice(tokens.first[slot], tokens.first[slot] + tokens.length[slot])
    ids = tokens.ids.copy()
    ids[span] = (ids[span] + 1) % VOCAB
    other = ItemTokens(ids, tokens.first, tokens.length, tokens.prompt, tokens.per_item)
    config = BatchConfig(32, 8, seed=0)
    one, two = (TrainingBatches(dataset, config, w).batch(0) for w in (tokens, other))
    before = np.zeros((8, 32), bool)
    for row, column in np.argwhere(one.segment > 0):
        same = one.segment[row, : column + 1] == one.segment[row, column]
        before[row, column] = slot not in one.items[row, : column + 1][same]
    asked = before & (one.target == slot)
    assert asked.sum() > 0
    differ = one.tokens != two.tokens
    assert differ.any() and not differ[before].any()
    queries = [np.asarray(ask(model, Batch.of(batch))) for batch in (one, two)]
    np.testing.assert_array_equal(queries[0][before], queries[1][before])
    assert not np.array_equal(queries[0], queries[1])


def test_words_are_embedded_and_learnt(dataset: Dataset, model: EqIDs) -> None:
    arrays = TrainingBatches(
        dataset, BatchConfig(32, 4), random_words(dataset, 3, 6, 2)
    ).batch(0)
    batch = Batch.of(arrays)
    entered = np.asarray(model.embed(batch, model.item_vectors(batch.items, FLOAT32)))
    is_word = (arrays.items < 0) & (arrays.segment > 0)
    table = np.asarray(model.llama.embedding)
    np.testing.assert_array_equal(entered[is_word], table[arrays.tokens[is_word]])
    grads = jax.jit(jax.grad(lambda m: m.loss(batch)[0], allow_int=True))(model)
    used = np.unique(arrays.tokens[is_word])
    moved = np.flatnonzero(np.abs(np.asarray(grads.llama.embedding)).sum(axis=1))
    assert set(moved) == set(used)


def test_evaluation_asks_where_training_does(dataset: Dataset, model: EqIDs) -> None:
    """A validation target gets the likelihood that it would have in training."""
    tokens = random_words(dataset, 5, 4, 3)
    seq_len = 256
    ranker = make_ranker(seq_len, FLOAT32, NOWHERE, tokens)
    found = evaluate(model, dataset, "valid", ranker)
    (chunk,) = chunks(dataset, "valid")
    nll, texts = [], texts_of(tokens)
    assert chunk.times[0] is not None
    for row in range(chunk.num_users):
        history, times = chunk.histories[row], chunk.times[row]
        run = np.append(history, chunk.target[row])
        wanted = naive(run, gap_buckets(times, len(history)), tokens, texts)
        arrays, size = HostBatch.empty(1, seq_len), len(wanted["items"])
        arrays.segment[0, :size] = 1
        arrays.position[0, :size] = np.arange(size)
        for name in ("tokens", "items", "gap", "target"):
            getattr(arrays, name)[0, :size] = wanted[name]
        arrays.target[0, : size - 1] = -1
        total, count = loss(model, Batch.of(arrays))
        assert count == 1
        nll.append(float(total))
    assert found["nll"] == pytest.approx(np.mean(nll), rel=1e-5)


loss = jax.jit(EqIDs.loss)


def test_other_slots_of_the_same_items_have_the_same_words(dataset: Dataset) -> None:
    tokens = random_words(dataset, 5, 4, 3)
    slots = np.random.default_rng(0).permutation(dataset.num_slots + 6)
    moved = tokens.remapped(slots[: dataset.num_slots], dataset.num_slots + 6)
    old, new = texts_of(tokens), texts_of(moved)
    assert [new[s] for s in slots[: dataset.num_slots]] == old
    assert sum(map(len, new)) == sum(map(len, old))
    assert moved.config != tokens.config
