"""Blocks of mapped histories are requested before their events are used."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from eqids.data import files
from eqids.data.batches import mapped_events
from eqids.data.batches.mapped_events import MappedEvents


class Advice:
    """Records what is requested in place of a mapped file."""

    def __init__(self, file: mmap.mmap):
        """Has the size of a file."""
        self._size, self.asked = len(file), []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        """The bytes of the file."""
        return self._size

    def madvise(self, option: int, start: int, length: int) -> None:
        """Records a range."""
        assert option == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert 0 <= start < start + length <= self._size
        self.asked.append((start, start + length))


def test_every_event_is_in_a_block_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    monkeypatch.setattr(mapped_events, "_BLOCK_EVENTS", 1000)
    monkeypatch.setattr(mapped_events, "_RECENT", 4)
    path, number = tmp_path / "histories.safetensors", 25_300
    arrays = {"slots": np.arange(number, dtype=np.int32), "times": np.arange(number)}
    save_file(arrays, path)
    found = files.read_events(path)
    events = MappedEvents((found["slots"], None, found["times"]))
    content = path.read_bytes()
    for file, start, size in events._mapped:
        kept = np.frombuffer(content[start : start + size * number], f"i{size}")
        np.testing.assert_array_equal(kept, np.arange(number))
        assert len(file) == len(content)
    events._mapped = [(Advice(file), *rest) for file, *rest in events._mapped]  # type: ignore[misc]
    first = np.array([5, 998, 1_000, 12_345, 25_290])
    events.ask(first, first + 3)
    for file, start, size in events._mapped:
        assert len(file.asked) == 4  # type: ignore[attr-defined]
        for event in first:
            at = start + size * int(event + 3)
            assert any(a <= at < at + size <= b for a, b in file.asked)  # type: ignore[attr-defined]
    events.ask(first, first)  # recently requested
    assert all(len(file.asked) == 4 for file, *_ in events._mapped)  # type: ignore[attr-defined]
    events.ask(np.array([8_000]), np.array([8_001]))
    events.ask(
        np.array([0]), np.array([9])
    )  # the oldest of five is forgotten, and requested again
    assert all(len(file.asked) == 6 for file, *_ in events._mapped)  # type: ignore[attr-defined]


def test_arrays_in_memory_are_left_alone() -> None:
    events = MappedEvents((np.arange(5), None))
    assert not events._mapped
    events.ask(np.array([3]), np.array([4]))
