"""Histories that stay on disk are those that are read whole."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eqids.config import UserError
from eqids.data import Dataset, checks, files, open_dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches


def test_batches_are_the_same(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    monkeypatch.setattr(checks, "_CHUNK", 7)
    mapped = open_dataset(dataset.path)
    assert not mapped.slots.flags.owndata and not mapped.slots.flags.writeable
    for name in ("slots", "times", "offsets"):
        one, other = getattr(mapped, name), getattr(dataset, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    config = BatchConfig(batch_size=4, seq_len=16)
    ours, theirs = (TrainingBatches(one, config) for one in (mapped, dataset))
    for k in (0, 1, 9):
        one, other = ours.batch(k), theirs.batch(k)
        for field in dataclasses.fields(one):
            values = (getattr(batch, field.name) for batch in (one, other))
            np.testing.assert_array_equal(*values, field.name)


def test_damage_is_found_in_every_chunk(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row in a message is that of the file, in whichever chunk it is."""
    arrays = load_file(dataset.path / "histories.safetensors")
    for size in (3, 5, 1000):
        monkeypatch.setattr(checks, "_CHUNK", size)
        checks.check_histories(dataset.path, dataset)
        for row in (0, 4, 11, len(arrays["slots"]) - 1):
            slots = dataset.slots.copy()
            slots[row] = -2
            damaged = _with(dataset, slots=slots)
            with pytest.raises(UserError, match=rf"row {row}: slot is -2"):
                checks.check_histories(dataset.path, damaged)
        inside = int(dataset.offsets[3]) + 1
        times = dataset.times.copy()  # type: ignore[union-attr]
        times[inside] = -1
        with pytest.raises(UserError, match=rf"row {inside}: time -1 is before"):
            checks.check_histories(dataset.path, _with(dataset, times=times))
    path = tmp_path / "h.safetensors"
    save_file({"a": np.zeros(3)}, path)
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    with pytest.raises(UserError, match="a is F64"):
        files.read_events(path)
    path.write_bytes(b"no such file" * 9)
    with pytest.raises(UserError, match="is not a safetensors file"):
        files.read_events(path)


def _with(dataset: Dataset, **arrays: np.ndarray) -> Dataset:
    return dataclasses.replace(dataset, **arrays)
