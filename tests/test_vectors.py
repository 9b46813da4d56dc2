"""Item vectors against a full SVD, dense TF-IDF, and files that users bring."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eqids.config import PrepareConfig, UserError
from eqids.data.clustering import singular_vectors, vectors as vectors_module
from eqids.data.clustering.own_vectors import check_vectors, own_vectors
from eqids.data.clustering.vectors import item_vectors, item_vectors_bytes, word_vectors


def _planted(num_groups: int = 4, per_group: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Users who each use the items of one group only."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40 * num_groups), 6)
    group = users % num_groups
    return users, group * per_group + rng.integers(0, per_group, len(users))


def test_vectors_span_what_a_full_svd_spans() -> None:
    rng = np.random.default_rng(1)
    users, items = np.divmod(np.sort(rng.choice(60 * 25, 400, replace=False)), 25)
    matrix = np.zeros((60, 25))
    matrix[users, items] = 1
    matrix /= np.maximum(np.sqrt((matrix**2).sum(1, keepdims=True)), 1e-9)
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    exact = right.T * values
    exact /= np.sqrt(np.linalg.norm(exact, axis=1, keepdims=True))
    vectors = item_vectors(users, items, 60, 25, 25, seed=0)
    np.testing.assert_allclose(vectors @ vectors.T, exact @ exact.T, atol=1e-5)


def test_vectors_hold_the_largest_singular_values() -> None:
    users, items = _planted()
    matrix = np.zeros((160, 32))
    np.add.at(matrix, (users, items), 1)
    matrix /= np.sqrt((matrix**2).sum(1, keepdims=True))
    values = np.linalg.svd(matrix, compute_uv=False)
    vectors = item_vectors(users, items, 160, 32, 4, seed=3)
    tempered = np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.linalg.svd(vectors * tempered, compute_uv=False)
    np.testing.assert_allclose(found, values[:4], rtol=1e-3)


def test_vectors_do_not_depend_on_cores_and_leave_events_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(2)
    users = np.sort(rng.integers(0, 300, 4_000))
    items = rng.integers(0, 200, 4_000)
    monkeypatch.setattr(vectors_module, "_USERS", 128)
    monkeypatch.setattr(singular_vectors, "_CHUNK", 64)
    found, before = [], items.copy()
    for cores in (1, 2, 5):
        monkeypatch.setattr(singular_vectors, "num_cores", lambda cores=cores: cores)
        found.append(item_vectors(users, items, 300, 200, 32, seed=0))
    assert np.array_equal(items, before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_items_without_events_have_zero_vectors_and_width_is_padded() -> None:
    vectors = item_vectors(np.array([0, 0, 1]), np.array([0, 2, 2]), 2, 4, 8, seed=0)
    assert vectors.shape == (4, 8) and vectors.dtype == np.float32
    assert not vectors[[1, 3]].any() and vectors[[0, 2]].any(axis=1).all()
    assert not vectors[:, 4:].any()


def test_memory_of_vectors_is_about_as_stated() -> None:
    num_users, num_items, num_events, width = 3_000, 30_000, 60_000, 16
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(0, num_users, num_events))
    items = rng.integers(0, num_items, num_events)
    tracemalloc.start()
    vectors = item_vectors(users, items, num_users, num_items, width, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stated = item_vectors_bytes(num_users, num_items, num_events, width)
    assert vectors.dtype == np.float32
    assert 0.7 * stated < peak < 1.2 * stated


def test_words_give_what_dense_tf_idf_gives() -> None:
    texts = ["Heat, crime", "Casino: crime, drama", "", "heat HEAT", "Toy Story"]
    tokens = sorted({w for text in texts for w in re.findall(r"\w+", text.lower())})
    counts = np.array([[re.findall(r"\w+", t.lower()).count(w) for w in tokens]
                       for t in texts], float)  # fmt: skip
    tf = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
    idf = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    dense = tf * idf
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-9)
    vectors = word_vectors(texts, 8, seed=0)
    assert vectors.shape == (5, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors @ vectors.T, dense @ dense.T, atol=1e-5)
    assert not vectors[2].any()


_IDS = pa.chunked_array([["a", "b"], ["c"]])
_ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _read(path: Path, reports: list[str] | None = None, **flags: Any) -> np.ndarray:
    reports = [] if reports is None else reports
    config = PrepareConfig(cluster_vectors=str(path), **flags)
    return own_vectors(path, _IDS, config, reports.append)


@pytest.mark.parametrize("kind", [
    pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float16()),
    pa.list_(pa.float32(), 2),
])  # fmt: skip
def test_lists_are_read_by_id(tmp_path: Path, kind: pa.DataType) -> None:
    lists = pa.array(_ROWS[[2, 0, 1]].tolist()).cast(kind)
    path = _parquet(
        tmp_path / "v.parquet", title=["x", "y", "z"], track=["c", "a", "b"], v=lists
    )
    found = _read(path, item_column="track")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, _ROWS)


def test_columns_of_numbers_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqids.data.clustering.own_vectors._ROWS", 2)
    path = _parquet(
        tmp_path / "v.parquet",
        item=["z", "b", "y", "c"],
        first=[9, 2, 9, 4],
        second=[9.0, 3.0, 9.0, 5.0],
    )
    reports: list[str] = []
    found = _read(path, reports)
    np.testing.assert_array_equal(found, [[0, 0], [2, 3], [4, 5]])
    assert reports == [
        f"{path}: 2 of 4 rows belong to no item and are left out",
        f"warning: {path} has no vector for 1 of 3 items; theirs are zeros",
    ]


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_rows_of_one_item_hold_one_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """At any position; the parts of a file are smaller than what is between."""
    monkeypatch.setattr("eqids.data.clustering.own_vectors._ROWS", rows)
    ids, lists = ["a", "x", "b", "a", "c", "b", "x"], [*_ROWS, *_ROWS, _ROWS[0]]
    lists = [lists[{"a": 0, "b": 1, "c": 2, "x": 0}[one]] for one in ids]
    path, reports = _parquet(tmp_path / "v.parquet", item=ids, v=lists), []
    np.testing.assert_array_equal(_read(path, reports), _ROWS)
    assert reports == [
        f"{path}: 2 of 7 rows belong to no item and are left out",
        f"{path}: 2 of 7 rows repeat another row and are dropped",
    ]
    lists[5] = lists[0]
    _parquet(path, item=ids, v=lists)
    with pytest.raises(UserError, match="two vectors for item 'b', in rows 3 and 6"):
        _read(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_of_an_array_belong_to_rows_of_the_items(
    tmp_path: Path, suffix: str
) -> None:
    items = tmp_path / f"items.{suffix}"
    if suffix == "csv":
        items.write_text("item_id,title\nc,C\nunused,U\na,A\nb,B\n")
    else:
        _parquet(items, item_id=["c", "unused", "a", "b"], title=["C", "U", "A", "B"])
    path = tmp_path / "v.npy"
    np.save(path, np.array([[4, 5], [7, 7], [0, 1], [2, 3]], np.float16))
    np.testing.assert_array_equal(_read(path, items=items), _ROWS)


_LISTS = [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a"]}, "has no column 'item_id' or 'item': it has id"),
        ({"item": [["a"], ["b"]], "v": _LISTS}, "column 'item' is list<"),
        ({"item": ["a"], "title": ["x"]}, "has 0 columns of lists and 0 of numbers"),
        ({"item": ["a", "b"], "v": _LISTS, "w": _LISTS}, "has 2 columns of lists"),
        (
            {"item": ["a", "a"], "v": _LISTS},
            "two vectors for item 'a', in rows 1 and 2",
        ),
        ({"item": ["a", None], "v": _LISTS}, "row 2: 'item' is empty, wanted an item"),
        ({"item": [1.0, np.nan], "v": _LISTS}, "row 2: 'item' is empty, wanted"),
        ({"item": ["a", "b"], "v": [[0.0], [1.0, 2.0]]}, "row 2: 'v' has 2 numbers"),
        ({"item": ["a", "b"], "v": [[0.0], None]}, "row 2: 'v' is empty"),
        ({"item": ["a", "b"], "v": [[0.0], [np.nan]]}, "row 2: its vector has values"),
        ({"item": ["a", "b"], "v": [1.0, None]}, "row 2: 'v' is empty"),
        ({"item": ["a", "b"], "v": [1.0, np.inf]}, "row 2: its vector has values"),
        ({"item": ["x", "y"], "v": [1.0, 2.0]}, "has a vector for none of the 3 items"),
    ],
)
def test_mistakes_in_parquet_are_named(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    path = _parquet(tmp_path / "v.parquet", **columns)
    with pytest.raises(UserError, match=re.escape(f"{path}")) as found:
        _read(path)
    assert said in str(found.value)


def test_vectors_of_zeros_are_reported(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "v.parquet", item=["a", "b", "c"], v=[1.0, 0.0, 0.0])
    reports: list[str] = []
    _read(path, reports)
    assert reports == [
        f"warning: {path} has vectors of zeros for 2 of 3 items, the first of which is "
        "'b'"
    ]


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    items, path = tmp_path / "items.csv", tmp_path / "v.npy"
    items.write_text("item_id,title\na,A\n")
    with path.open("wb") as file:
        np.savez(file, v=np.ones((1, 2), np.float32))
    with pytest.raises(UserError, match=r"v\.npy is an archive of arrays, wanted"):
        _read(path, items=items)


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    items, path = tmp_path / "items.csv", tmp_path / "v.npy"
    items.write_text("item_id,title\na,A\nb,B\n")
    np.save(path, np.zeros((3, 2), np.float32))
    with pytest.raises(UserError, match=r"float32\[3, 2\], wanted numbers \[2, width"):
        _read(path, items=items)
    path.write_text("no array")
    with pytest.raises(UserError, match=r"is no \.npy file of numbers"):
        _read(path, items=items)
    with pytest.raises(UserError, match="needs --items"):
        PrepareConfig(cluster_vectors="v.npy")
    with pytest.raises(UserError, match=r"'genres', wanted interactions, words, text"):
        PrepareConfig(cluster_vectors="genres")
    with pytest.raises(UserError, match=r"none\.parquet is not a file that exists"):
        check_vectors(PrepareConfig(cluster_vectors="none.parquet"))
    (tmp_path / "v.parquet").write_text("no table")
    with pytest.raises(UserError, match="is not a Parquet file"):
        _read(tmp_path / "v.parquet")
