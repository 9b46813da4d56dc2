"""Packing and batches: every pair once, nothing that leaks, any batch by number."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pytest
from conftest import make_dataset
from hypothesis import given, settings, strategies as st

from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.batches import packing
from eqids.data.batches.event_gaps import NUM_GAPS, gap_buckets
from eqids.data.batches.host_batch import HostBatch
from eqids.data.batches.packing import PackingPlan, pack
from eqids.data.batches.training_batches import (
    BatchConfig,
    TrainingBatches,
    query_batch,
)
from eqids.model import Batch


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=200),
    st.integers(1, 30),
)
def test_packed_windows_never_overlap_and_waste_little(
    lengths: list[int], capacity: int
) -> None:
    sizes = np.array(sorted((min(n, capacity) for n in lengths), reverse=True))
    row, offset = pack(sizes, capacity)
    used = np.zeros((row.max() + 1, capacity), int)
    for r, o, n in zip(row, offset, sizes, strict=True):
        used[r, o : o + n] += 1
        assert o + n <= capacity
    assert used.max() == 1
    assert np.all(used.sum(axis=1) > 0)
    # Two rows that are at most half full would have been one.
    assert np.count_nonzero(used.sum(axis=1) <= capacity / 2) <= 1


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.integers(1, 25),
    st.integers(0, 5),
    st.sampled_from([2**16, 10]),
)
def test_an_epoch_covers_every_pair_once(
    lengths: list[int], seq_len: int, epoch: int, block_events: int
) -> None:
    with (
        patch.object(packing, "_BLOCK_EVENTS", block_events),
        patch.object(packing, "_GROUP_BLOCKS", 3),
    ):
        plan = PackingPlan(np.array(lengths), seq_len, seed=3)
        _assert_covers_every_pair_once(plan, lengths, epoch)


def _assert_covers_every_pair_once(
    plan: PackingPlan, lengths: list[int], epoch: int
) -> None:
    drawn = plan.epoch(epoch)
    covered = Counter(
        (int(u), int(s) + i)
        for u, s, n in zip(drawn.user, drawn.start, drawn.length, strict=True)
        for i in range(n)
    )
    expected = {(u, i) for u, n in enumerate(lengths) for i in range(n - 1)}
    assert set(covered) == expected
    assert set(covered.values()) <= {1}
    assert plan.num_targets == len(expected)
    assert len(drawn.row_start) == plan.num_rows + 1
    assert drawn.row_start[-1] == len(drawn.user)


def test_many_events_are_read_a_group_of_blocks_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part of an epoch reads few blocks, others in each epoch, but it mixes
    users of all parts of the file."""
    monkeypatch.setattr(packing, "_BLOCK_EVENTS", 1_000)
    monkeypatch.setattr(packing, "_GROUP_BLOCKS", 10)
    length = np.random.default_rng(0).integers(0, 60, 8_000)
    block = packing.blocks_of(length)
    plan = PackingPlan(length, seq_len=25, seed=3)
    seen = []
    for epoch in (0, 1):
        drawn = plan.epoch(epoch)
        for part in np.array_split(block[drawn.user], 24):
            seen.append(set(part.tolist()))
            assert len(seen[-1]) < 0.25 * block.max()
            assert np.ptp(part) > 0.6 * block.max()
    assert set().union(*seen) == set(range(block.max() + 1))
    overlap = [len(a & b) / len(a) for a, b in zip(seen[:24], seen[24:], strict=True)]
    assert np.mean(overlap) < 0.5


def test_batches_depend_on_seed_and_number_only(dataset: Dataset) -> None:
    config = BatchConfig(seq_len=16, batch_size=4, seed=7, request_time=True)
    first, second = (TrainingBatches(dataset, config) for _ in range(2))
    order = [9, 0, 3, 9]
    one = [first.batch(k) for k in order]
    streamed = list(second.iterate(0, 10))
    for k, batch in zip(order, one, strict=True):
        for field, array in vars(batch).items():
            np.testing.assert_array_equal(array, getattr(streamed[k], field))
            assert array.dtype == np.int32
            assert array.shape == (4, 16)
    later = next(second.iterate(5, 6))
    np.testing.assert_array_equal(later.items, streamed[5].items)
    other = TrainingBatches(dataset, BatchConfig(16, 4, seed=8)).batch(0)
    assert not np.array_equal(other.items, one[1].items)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
def test_rows_are_histories_and_hold_no_held_out_event(
    dataset: Dataset, k: int, seq_len: int, ties: bool
) -> None:
    """Each segment is a run of one user's training events, targets one ahead."""
    config = BatchConfig(seq_len, 3, seed=1, gap_dropout=0.5, shuffle_ties=ties)
    batch = TrainingBatches(dataset, config).batch(k)
    trained = [dataset.history(u)[:n] for u, n in enumerate(dataset.train_length)]
    for row in range(3):
        for segment in range(1, batch.segment[row].max() + 1):
            at = np.flatnonzero(batch.segment[row] == segment)
            inputs, targets = batch.items[row][at], batch.target[row][at]
            np.testing.assert_array_equal(np.diff(at), 1)
            np.testing.assert_array_equal(batch.position[row][at], np.arange(len(at)))
            np.testing.assert_array_equal(inputs[1:], targets[:-1])
            run = np.append(inputs, targets[-1])
            if ties:
                run = np.sort(run)
            found = any(
                np.array_equal(np.sort(h[i : i + len(run)]) if ties
                               else h[i : i + len(run)], run)
                for h in trained
                for i in range(len(h) - len(run) + 1)
            )  # fmt: skip
            assert found
    padding = batch.segment == 0
    assert np.all(batch.items[padding] == -1)
    assert np.all(batch.target[padding] == -1)
    assert np.all(batch.tokens == 0)


def test_ties_are_shuffled_within_their_moment_only(dataset: Dataset) -> None:
    batches = TrainingBatches(dataset, BatchConfig(64, 8, seed=0, gap_dropout=0.0))
    by_order = TrainingBatches(
        dataset, BatchConfig(64, 8, seed=0, gap_dropout=0.0, shuffle_ties=False)
    )
    one, two = batches.batch(0), by_order.batch(0)
    np.testing.assert_array_equal(one.gap, two.gap)
    assert not np.array_equal(one.items, two.items)
    for row in range(8):
        for segment in range(1, two.segment[row].max() + 1):
            at = two.segment[row] == segment
            moment = np.cumsum(two.gap[row][at] != 1)
            inputs = one.items[row][at], two.items[row][at]
            targets = one.target[row][at], two.target[row][at]
            whole = [
                np.sort(np.append(i, t[-1]))
                for i, t in zip(inputs, targets, strict=True)
            ]
            np.testing.assert_array_equal(*whole)
            # The batch does not hold the target's time, which may be the last input's.
            for m in np.unique(moment)[:-1]:
                within = [np.sort(i[moment == m]) for i in inputs]
                np.testing.assert_array_equal(*within)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0, 1), (1, 2), (2, 3), (3, 3), (4, 4), (86_400, 18), (2**40, NUM_GAPS - 1)],
)
def test_gap_buckets_are_powers_of_two(seconds: int, bucket: int) -> None:
    times = np.array([5, 5 + seconds])
    assert gap_buckets(times, 2).tolist() == [0, bucket]
    assert gap_buckets(None, 3).tolist() == [0, 0, 0]


def test_queries_keep_the_newest_events_and_the_gaps_between_them() -> None:
    slots, times = np.arange(5, dtype=np.int32), np.array([10, 20, 20, 50, 90])
    before = query_batch([slots[:4]], [times[:4]], 8)
    assert before.gap[0].tolist() == [0, 5, 1, 6, 0, 0, 0, 0]
    assert before.items[0].tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    cut = query_batch([slots], [times], 3)
    assert cut.items[0].tolist() == [2, 3, 4]
    assert cut.gap[0].tolist() == [0, 6, 7]


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seq_len is 0"):
        BatchConfig(seq_len=0)
    small = make_dataset(tmp_path / "one", num_users=1, max_length=3)
    with pytest.raises(UserError, match="no user has two training events"):
        TrainingBatches(small, BatchConfig())


def test_the_batch_of_the_model_has_the_fields_of_the_hosts() -> None:
    def axes(kind: Any) -> dict[str, str]:
        hints = {field.name: field.type for field in dataclasses.fields(kind)}
        arrays = {n: (get_args(hint) or (hint,))[0] for n, hint in hints.items()}
        return {name: array.dim_str for name, array in arrays.items()}

    assert axes(HostBatch) == axes(Batch)
    assert set(axes(Batch).values()) == {"batch seq"}
    without, host = HostBatch.empty(2, 3), HostBatch.empty(2, 3, request_time=True)
    assert Batch.of(without.rows(slice(1))).request_gap is None
    assert Batch.zeros(2, 3).request_gap is None
    for number, array in enumerate(vars(host).values()):
        array += number
    for name, array in vars(Batch.of(host.rows(slice(1, 2)))).items():
        np.testing.assert_array_equal(array, getattr(host, name)[1:])
        assert array.dtype == np.int32
