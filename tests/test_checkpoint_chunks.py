"""Arrays are cut into chunks, copied to the host, and read back in boxes."""

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from saved import bits, tiny

from eqids.checkpoints import (
    chunks,
    read_manifest,
    reader,
    save,
    snapshot,
    store,
)
from eqids.checkpoints.leaves import stored_arrays
from eqids.checkpoints.manifest import ArrayRecord
from eqids.checkpoints.reader import Reader
from eqids.checkpoints.snapshot import Staging
from eqids.checkpoints.store import Shard


@given(data=st.data())
def test_chunks_tile_every_shard(data: st.DataObject) -> None:
    shard = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    counts = tuple(data.draw(st.integers(1, 3)) for _ in shard)
    shape = tuple(size * count for size, count in zip(shard, counts, strict=True))
    limit = data.draw(st.integers(1, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CHUNK_BYTES", limit)
        chunk = chunks.chunk_shape(shape, shard, 4)
    record = ArrayRecord(shape, "float32", chunk, ())
    assert np.prod(chunk) <= 4 * max(1, limit // 4)
    seen = np.full(shape, -1)
    for place in np.ndindex(*counts):
        box = tuple(
            slice(row * size, (row + 1) * size)
            for row, size in zip(place, shard, strict=True)
        )
        inside = np.zeros(shape, bool)
        inside[box] = True
        for number, extent in chunks.chunks_in(record, box):
            assert np.all(inside[extent]), "a chunk crosses a shard"
            assert np.all(seen[extent] == -1), "two chunks overlap"
            seen[extent] = number
    assert set(np.unique(seen)) == set(range(chunks.num_chunks(record)))


@pytest.mark.parametrize(
    ("shape", "shard", "wanted"),
    [
        ((262144, 1024), (32768, 1024), (8192, 1024)),
        ((244088, 1024), (30511, 1024), (2347, 1024)),  # 13 x 2347 rows
        ((240168, 1024), (30021, 1024), (10007, 1024)),  # 3 x 10007 rows
        ((320072, 1024), (40009, 1024), (40009, 205)),  # a prime number of rows
        ((244088, 1024), (244088, 128), (61022, 128)),  # four nearly equal ones
        ((8 * 40000003,), (40000003,), (40000003,)),
        ((4, 2048, 8192), (1, 2048, 8192), (1, 1024, 8192)),
    ],
)
def test_no_chunk_is_much_too_small(
    shape: tuple[int, ...], shard: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    assert chunks.chunk_shape(shape, shard, 4) == wanted


def test_staged_shards_are_copies_and_their_memory_is_used_again() -> None:
    def staged(staging: Staging, factor: int) -> tuple[list[Shard], list[np.ndarray]]:
        host = np.arange(9.0) * factor
        half = jnp.arange(77, dtype=jnp.bfloat16).reshape(7, 11) * factor
        flags = np.arange(5) % 2 == factor % 2
        tree = {"a": host, "b": half, "c": flags, "d": np.array(factor)}
        want = [np.array(leaf) for leaf in tree.values()]
        copies = staging.copy(store.shards_of(stored_arrays(tree)))
        host[:] = -1
        flags[:] = False
        half.delete()
        return copies, want

    def check(copies: list[Shard], want: list[np.ndarray]) -> None:
        for copy, values in zip(copies, want, strict=True):
            assert bits(copy.values) == bits(values)

    staging = Staging()
    first, want = staged(staging, 1)
    check(first, want)
    other, others = staged(Staging(), 3)
    check(first, want)
    second, wants = staged(staging, 2)
    check(second, wants)
    check(other, others)
    for one, two, three in zip(first, second, other, strict=True):
        assert np.shares_memory(one.values, two.values)
        assert not np.shares_memory(one.values, three.values)
    for one in second:
        assert sum(np.shares_memory(one.values, two.values) for two in second) == 1
    larger = {"a": np.arange(5000.0)}
    (copy,) = staging.copy(store.shards_of(stored_arrays(larger)))
    check([copy], [larger["a"]])


def test_staging_copies_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_SLICE_BYTES", 100)
    values = np.random.default_rng(0).random((37, 11))[:, ::2]
    (copy,) = Staging().copy(store.shards_of(stored_arrays({"a": values})))
    np.testing.assert_array_equal(copy.values, values)


@pytest.mark.parametrize("ahead", [0, 10**6])
def test_boxes_are_read_in_order_and_ahead_within_a_limit(
    ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch)
    monkeypatch.setattr(reader, "_AHEAD_BYTES", ahead)
    tree = {"a": np.arange(1200.0).reshape(40, 30), "b": np.arange(700)}
    path = save(tmp_path, 1, tree, {})
    padded = {"a": np.pad(tree["a"], ((0, 8), (0, 2))), "b": tree["b"]}
    boxes = [
        ("a", (slice(3, 11), slice(5, 7))),
        ("b", (slice(0, 700),)),
        ("a", (slice(30, 48), slice(2, 32))),
        ("b", (slice(600, 601),)),
        ("a", (slice(40, 45), slice(0, 30))),
        ("a", (slice(0, 40), slice(0, 30))),
    ]
    asked = 0

    def ask() -> Iterator[tuple[str, chunks.Box]]:
        nonlocal asked
        for box in boxes:
            asked += 1
            yield box

    reported = list[int]()
    with Reader(path, read_manifest(path)) as opened:
        found = opened.read_each(ask(), reported.append)
        for turn, (name, box) in enumerate(boxes, 1):
            np.testing.assert_array_equal(next(found), padded[name][box])
            assert asked == (turn if ahead == 0 else len(boxes))
        assert next(found, None) is None
        one = opened.read(*boxes[0])
    np.testing.assert_array_equal(one, tree["a"][3:11, 5:7])
    assert sum(reported) >= tree["a"].nbytes + tree["b"].nbytes


def test_written_shards_are_freed(tmp_path: Path) -> None:
    shards = store.shards_of(stored_arrays({"a": np.arange(3), "b": np.arange(4)}))
    written = store.write_parts(tmp_path, shards)
    assert shards == []
    assert sorted(written.chunks) == [("a", 0), ("b", 0)]
