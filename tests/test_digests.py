"""Digests, and reads into memory that are looked at on the way."""

import hashlib
from pathlib import Path

import blake3
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from convert.finite import all_finite
from eqids.io import reading
from eqids.io.digests import Hasher, digest, file_digest
from eqids.io.reading import read_into, scan


@given(st.lists(st.binary(max_size=99), max_size=5), st.integers(0, 60))
def test_a_recorded_digest_says_how_it_is_computed(
    parts: list[bytes], start: int
) -> None:
    data = b"".join(parts)
    ours, theirs = digest(data), hashlib.sha256(data).hexdigest()
    assert ours == f"blake3:{blake3.blake3(data).hexdigest()}"
    assert (digest(data, ours), digest(data, theirs)) == (ours, theirs)
    for said in (ours, theirs):
        hasher = Hasher(said)
        for part in parts:
            hasher.update(part)
        assert hasher.text == said


@pytest.mark.parametrize("start", [0, 1, 4096, 9999, 10_000, 12_000])
def test_a_file_is_hashed_from_a_byte_on(start: int, tmp_path: Path) -> None:
    path, data = tmp_path / "x", np.random.default_rng(0).bytes(10_000)
    path.write_bytes(data)
    seen = list[int]()
    rest = data[start:]
    assert file_digest(path, start=start, advance=seen.append) == digest(rest)
    assert sum(seen) == len(rest)
    of_rest = hashlib.sha256(rest).hexdigest()
    assert file_digest(path, of_rest, start=start) == of_rest


@pytest.mark.parametrize("size", [0, 1, 64, 65, 1000])
def test_blocks_are_looked_at_in_order(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    path, data = tmp_path / "x", np.random.default_rng(0).bytes(1100)
    path.write_bytes(data)
    blocks, scanned = list[bytes](), list[bytes]()
    target = np.empty(size, np.uint8)
    assert read_into(path, 7, target, lambda b: blocks.append(b.tobytes())) == size
    assert scan(path, 7, 7 + size, lambda b: scanned.append(b.tobytes())) == size
    assert target.tobytes() == b"".join(blocks) == data[7 : 7 + size]
    assert scanned == blocks
    assert all(len(block) == 64 for block in blocks[:-1])


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with pytest.raises(OSError, match="shorter than it was"):
        read_into(path, 1, np.empty(3, np.uint8))
    with pytest.raises(OSError, match="shorter than it was"):
        scan(path, 0, 4, lambda block: None)


@given(st.data())
def test_finite_is_what_numpy_calls_finite(data: st.DataObject) -> None:
    names = ("float16", "float32", "float64", "bfloat16")
    dtype = np.dtype(data.draw(st.sampled_from(names)))
    bits = np.dtype(f"u{dtype.itemsize}")
    size = st.integers(0, 5)
    values = data.draw(hnp.arrays(bits, size)).view(dtype)
    wanted = bool(np.isfinite(values.astype(np.float64)).all())
    assert all_finite(values) is wanted
    for odd in (np.nan, -np.nan, np.inf, -np.inf):
        assert not all_finite(np.append(np.zeros(3), odd).astype(dtype))
    largest = ml_dtypes.finfo(dtype).max
    assert all_finite(np.array([largest, -largest, -0.0], dtype))
