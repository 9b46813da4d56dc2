"""The counts of successors against loops over histories."""

import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, strategies as st

from eqids.config import MARKOV_ORDER, UserError
from eqids.data import Dataset, open_dataset, transitions as counting
from eqids.data.files import SUCCESSORS_FILE
from eqids.data.info import INFO_FILE, read_info, render_info
from eqids.data.successors import Successors
from eqids.data.transitions import transitions


def counted(dataset: Dataset) -> np.ndarray:
    """Counts `[slot, slot]` over the training events, by loops."""
    counts = np.zeros((dataset.num_slots, dataset.num_slots))
    for user, length in enumerate(dataset.train_length):
        history = dataset.history(user)[:length]
        for i, slot in enumerate(history):
            for distance, later in enumerate(history[i + 1 : i + 1 + MARKOV_ORDER], 1):
                counts[slot, later] += 1 / distance
    return counts


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_counts_do_not_depend_on_how_events_are_cut(
    histories: list[tuple[int, int]], num_slots: int, pairs: int, chunk: int
) -> None:
    """Histories of any length, of which some are not for training, against a loop."""
    length = np.array([length for length, _ in histories])
    train_length = np.minimum(length, [most for _, most in histories]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(length)])
    slots = np.random.default_rng(0).integers(0, num_slots, offsets[-1], np.int32)
    expected = np.zeros((num_slots, num_slots))
    for start, number in zip(offsets, train_length, strict=False):
        for i in range(number):
            for distance in range(1, min(MARKOV_ORDER, number - 1 - i) + 1):
                expected[slots[start + i], slots[start + i + distance]] += 1 / distance
    with (
        patch.object(counting, "_PAIRS", pairs),
        patch.object(counting, "_CHUNK", chunk),
    ):
        found = transitions(slots, offsets, train_length, num_slots)
        kept = Successors.of(slots, offsets, train_length, num_slots, most=2)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12)
    heaviest = -np.sort(-expected, axis=1)[:, :2]
    np.testing.assert_allclose(
        -np.sort(-as_dense(kept, num_slots), axis=1)[:, :2], heaviest, rtol=1e-6
    )


def as_dense(found: Successors, num_slots: int) -> np.ndarray:
    counts = np.zeros((num_slots, num_slots))
    row = np.repeat(np.arange(num_slots), np.diff(found.offsets))
    counts[row, found.slots] = found.weights
    return counts


def test_a_dataset_holds_the_counts_of_its_training_events(dataset: Dataset) -> None:
    found = dataset.stored_successors
    assert found is not None and found is dataset.successors
    dense = as_dense(found, dataset.num_slots)
    np.testing.assert_allclose(dense, counted(dataset), rtol=1e-6)
    assert found.width == np.count_nonzero(dense, axis=1).max()
    rows = np.split(found.weights, found.offsets[1:-1])
    assert all((np.diff(row) <= 0).all() for row in rows)


def test_no_target_is_in_the_counts(dataset: Dataset) -> None:
    """Other events after the training events of each history change no count."""
    rng, slots = np.random.default_rng(0), dataset.slots.copy()
    items = np.flatnonzero(dataset.item_valid)
    for user in np.flatnonzero(dataset.valid_at > 0):
        later = slice(
            dataset.offsets[user] + dataset.train_length[user],
            dataset.offsets[user + 1],
        )
        slots[later] = rng.choice(items, later.stop - later.start)
    assert (slots != dataset.slots).sum() > dataset.num_users / 2
    other = dataclasses.replace(dataset, slots=slots, stored_successors=None)
    for name, array in vars(dataset.successors).items():
        np.testing.assert_array_equal(getattr(other.successors, name), array)


def test_the_heaviest_successors_are_kept(dataset: Dataset) -> None:
    counts = counted(dataset)
    events = dataset.slots, dataset.offsets, dataset.train_length
    found = Successors.of(*events, dataset.num_slots, most=4)
    kept = as_dense(found, dataset.num_slots)
    for row, own in zip(kept, counts, strict=True):
        order = np.lexsort((np.arange(len(own)), -own.astype(np.float32)))[:4]
        expected = np.zeros_like(own)
        expected[order] = own[order]
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_retired_items_leave_the_shares_of_the_others(dataset: Dataset) -> None:
    valid = dataset.item_valid.copy()
    gone = np.flatnonzero(valid)[::5]
    valid.reshape(-1)[gone] = False
    table = dataset.successors.table(valid)
    counts = counted(dataset)
    counts[:, gone] = 0
    total = counts.sum(axis=1)
    shares = np.zeros_like(counts)
    flat = table.slot.reshape(len(counts), -1), table.weight.reshape(len(counts), -1)
    for row, slots, weights in zip(shares, *flat, strict=True):
        np.add.at(row, slots, weights)
    expected = counts / np.where(total, total, 1)[:, None]
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_a_folder_without_the_table_is_counted(copy: Dataset) -> None:
    info = read_info(copy.path / INFO_FILE)
    files = {n: hash for n, hash in info.files.items() if n != SUCCESSORS_FILE}
    text = render_info(dataclasses.replace(info, files=files))
    (copy.path / INFO_FILE).write_text(text)
    (copy.path / SUCCESSORS_FILE).unlink()
    old = open_dataset(copy.path)
    assert old.stored_successors is None
    for name, array in vars(copy.successors).items():
        np.testing.assert_array_equal(getattr(old.successors, name), array)
    # The hash in a later dataset.json makes the file necessary.
    (copy.path / INFO_FILE).write_text(render_info(info))
    with pytest.raises(UserError, match="successors.safetensors is missing"):
        open_dataset(copy.path)


def test_histories_of_one_event_have_no_successors(dataset: Dataset) -> None:
    short = np.minimum(dataset.train_length, 1)
    none = dataclasses.replace(dataset, train_length=short, stored_successors=None)
    assert len(none.successors.slots) == 0 and none.successors.width == 1
    table = none.successors.table(none.item_valid)
    assert not table.weight.any()
