"""The cache of keys and values of histories: answers are those without it."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from served import NOW, Kind, opened_model

from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.inference.engine.page_index import PageIndex, prefix_digests
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.engine.shapes import PAGE
from eqids.inference.engine.values import Query, Recommendations
from eqids.inference.histories import History

Pair = tuple[ServedModel, ServedModel]
"""A model with the cache, and the same without it."""
SEQ_LEN = 40
"""Not a multiple of the page."""
FEW, MANY = 0.02, 1.0
"""MB of caches that hold five pages, and all."""


def both(dataset: Dataset, kind: Kind, mb: float, seq_len: int = SEQ_LEN) -> Pair:
    """A model with the cache, and the same without it."""
    opened = opened_model(dataset, kind, seq_len=seq_len)
    cached = ServedModel(opened, max_batch=4, max_k=16, history_cache_mb=mb)
    plain = ServedModel(opened, max_batch=4, max_k=16)
    return cached, plain


def assert_same(
    found: Sequence[Recommendations], wanted: Sequence[Recommendations]
) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.slots, other.slots)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def history(slots: Sequence[int], gaps: Sequence[int], wait: int) -> History:
    """A history that ends before `NOW`."""
    times = NOW - wait - np.cumsum(np.array(gaps, np.int64)[::-1])[::-1]
    return History(0, np.array(slots, np.int32), times, NOW)


@pytest.mark.parametrize("mb", [MANY, FEW])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_answers_are_those_without_it(
    mb: float, data: st.DataObject, dataset: Dataset, models: Mapping[float, Pair]
) -> None:
    """However histories grow, change and shrink, and the model is loaded anew."""
    cached, plain = models[mb]
    places = np.flatnonzero(dataset.item_valid)
    slot = st.sampled_from(places.tolist())
    event = st.tuples(slot, st.sampled_from([0, 1, 60, 9_000]))
    events = [data.draw(st.lists(event, min_size=1, max_size=130)) for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 12))):
        own = events[data.draw(st.integers(0, 2))]
        match data.draw(st.sampled_from(["append", "edit", "truncate", "reload"])):
            case "append":
                own += data.draw(st.lists(event, min_size=1, max_size=20))
            case "edit":
                own[data.draw(st.integers(0, len(own) - 1))] = data.draw(event)
            case "truncate":
                del own[data.draw(st.integers(1, len(own))) :]
            case "reload":
                cached = ServedModel(
                    cached.opened, max_batch=4, max_k=16, history_cache_mb=mb,
                    programs_of=cached,
                )  # fmt: skip
        wait = data.draw(st.sampled_from([0, 50, 10**5]))
        asked = [Query(history(*zip(*one, strict=True), wait), 8) for one in events]
        assert_same(cached.answer(asked), plain.answer(asked))


@pytest.fixture(scope="module")
def models(dataset: Dataset) -> Mapping[float, Pair]:
    """Models with large and small caches, compiled."""
    found = {mb: both(dataset, "items", mb) for mb in (MANY, FEW)}
    found[MANY][0].compile()
    return found


@pytest.mark.parametrize(
    "kind", ["items", "prompt", pytest.param("text", marks=pytest.mark.long)]
)
def test_one_more_event_computes_little(
    kind: Kind, dataset: Dataset, models: Mapping[float, Pair]
) -> None:
    cached, plain = models[MANY] if kind == "items" else both(dataset, kind, MANY, 88)
    cache = cached.history_cache
    assert cache is not None
    cache.clear()
    hits, misses = cache.hits, cache.misses
    places = np.flatnonzero(dataset.item_valid)
    slots = np.resize(places, 60)
    for stop in range(20, 60):
        asked = [Query(history(slots[:stop], [60] * stop, 10), 8)]
        (batch,) = cached.plan([cached.prepare(one) for one in asked])
        assert_same(cached.answer(asked), plain.answer(asked))
        assert batch.length <= 4 or not batch.continues
    # When the window moves, by an eighth of its items, all of it is computed.
    moves = {"items": 4, "text": 11, "prompt": 11}[kind]
    assert cache.misses - misses <= 1 + moves
    assert cache.hits + cache.misses - hits - misses == 40


def test_nothing_compiles_that_was_not_compiled_ahead(
    dataset: Dataset, models: Mapping[float, Pair]
) -> None:
    cached, _ = models[MANY]
    number = cached.num_programs
    slots = np.flatnonzero(dataset.item_valid)[:50]
    for stop in (*range(1, 50, 7), 20, 21, 49, 50):
        asked = [Query(history(slots[:n], [60] * n, 10), 8) for n in (stop, 3)]
        cached.answer(asked)
    assert cached.num_programs == number


def test_memory_is_bounded(dataset: Dataset, models: Mapping[float, Pair]) -> None:
    cached, _ = models[FEW]
    cache = cached.history_cache
    assert cache is not None
    arrays = jax.tree.leaves(cache.pages)
    size = sum(x.nbytes for x in arrays)
    assert FEW * 2**19 < size <= FEW * 2**20
    slots = np.flatnonzero(dataset.item_valid)
    for first in range(5):
        own = np.roll(slots, first)[:40]
        cached.answer([Query(history(own, [60] * 40, 10), 8)])
    after = jax.tree.leaves(cache.pages)
    assert sum(x.nbytes for x in after) == size
    # Pages are written in place.
    assert all(x.is_deleted() for x in arrays)
    with pytest.raises(UserError, match="cache_mb is 0.0001, wanted 0 or at"):
        both(dataset, "items", 0.0001)


HISTORY = st.lists(st.integers(0, 1), max_size=5 * PAGE)


@settings(max_examples=60)
@given(st.integers(5, 9), st.lists(st.tuples(HISTORY, st.booleans()), max_size=12))
def test_a_page_that_is_known_holds_what_was_written(
    num_pages: int, drawn: list[tuple[list[int], bool]]
) -> None:
    """Places hold positions here: whatever is known of a history is what it is."""
    index, places = PageIndex(num_pages), np.full((num_pages, PAGE), -1)
    before = list[int]()
    for own, grows in drawn:
        items = np.array([*before, *own[:9]] if grows else own)
        before = items.tolist()
        if not len(items):
            continue
        row = HostBatch.empty(1, len(items))
        row.items[0] = items
        prefixes = prefix_digests(row, b"weights")
        known, start = index.known(prefixes)
        held = places[known].reshape(-1)[:start]
        assert np.array_equal(held, items[:start])
        written = set[int]()
        kept = index.keep(prefixes, start, len(items), written)
        assert len(written) == sum(place >= 0 for place in kept)
        first = start - start % PAGE
        for place in kept:
            part = items[first : first + PAGE]
            if place >= 0:
                places[place, : len(part)] = part
            first += PAGE
        # All of it fits, so all of it is known now.
        known, stop = index.known(prefixes)
        assert stop == len(items)
        assert np.array_equal(places[known].reshape(-1)[:stop], items)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=70), st.integers(0, 69))
def test_a_digest_is_of_all_positions_up_to_it(items: list[int], position: int) -> None:
    row, longer = HostBatch.empty(1, len(items)), HostBatch.empty(1, len(items) + 1)
    row.items[0] = longer.items[0, :-1] = items
    digests = prefix_digests(row, b"weights")
    whole = set(range(PAGE, len(items) + 1, PAGE))
    assert digests.keys() >= whole | set(range(len(items), 0, -1)[:PAGE])
    assert not {*digests.values()} & {*prefix_digests(row, b"others").values()}
    more = prefix_digests(longer, b"weights")
    assert all(more[n] == digests[n] for n in digests.keys() & more.keys())
    if position < len(items):
        row.gap[0, position] += 1
        changed = prefix_digests(row, b"weights")
        for length, digest in digests.items():
            assert (changed[length] == digest) == (length <= position)
