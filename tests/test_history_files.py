"""Files of histories: ids as `prepare` reads them, and only the columns that count."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import recommend
from eqids.config import UserError
from eqids.data.raw.history_files import read_history_file
from eqids.data.raw.missing import NULL_WORDS

COLUMNS = {"user_column": "user", "item_column": "item", "time_column": None}


def no_report(message: str) -> None:
    """Fails where nothing should be said."""
    raise AssertionError(message)


def write(path: Path, columns: dict[str, Any]) -> Path:
    """A CSV or Parquet file, as its name says."""
    if path.suffix == ".csv":
        return write_csv(path, list(zip(*columns.values(), strict=True)), [*columns])
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("column", ["user", "item"])
@pytest.mark.parametrize("word", [word for word in NULL_WORDS if word])
def test_words_for_nothing_among_integers_are_refused(
    tmp_path: Path, column: str, word: str
) -> None:
    ids = ["1", "2", word.upper(), "3", word]
    columns = {"user": list("12345"), "item": list("12345"), column: ids}
    path = write(tmp_path / "in.csv", columns)
    said = (
        f"in.csv: column '{column}' is '.*' in 2 of 5 rows, first in row 3, among num"
    )
    with pytest.raises(UserError, match=said) as error:
        read_history_file(path, no_report)
    with pytest.raises(UserError, match=said) as of_prepare:
        prepared(tmp_path, f"csv:{path}", **COLUMNS)
    # But for the flag that `prepare` has.
    assert str(of_prepare.value).startswith(str(error.value) + ", or --missing drop")


def test_such_words_among_texts_are_ids_and_reported(tmp_path: Path) -> None:
    users = ["ann", "NULL", "na"]
    path = write(tmp_path / "in.csv", {"user": users, "item": [1, 2, 3]})
    reports: list[str] = []
    assert read_history_file(path, reports.append)["user"].tolist() == users
    assert (
        len(reports) == 1
        and "column 'user' is 'NULL' or the like in 2 of 3" in reports[0]
    )
    assert "--" not in reports[0]


def test_empty_ids_are_counted(tmp_path: Path) -> None:
    columns = {"user": ["1", "", "", "4"], "item": [1, 2, 3, 4]}
    texts = {**columns, "user": pa.array(["1", "", "", "4"])}
    nulls = {**columns, "user": pa.array([1.5, None, float("nan"), 2.5])}
    for name, table in (("a.csv", columns), ("a.parquet", texts), ("b.pq", nulls)):
        path = write(tmp_path / name, table)
        with pytest.raises(UserError, match="'user' is .*2 of 4 rows, first in row 2"):
            read_history_file(path, no_report)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pa.array([[1], [2]]), "array<int64>"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct<a: int64>"),
        (pa.array([b"a", b"b"]), "binary"),
    ],
)
@pytest.mark.parametrize("column", ["user", "item"])
def test_nested_and_binary_ids_are_refused(
    tmp_path: Path, column: str, ids: pa.Array, kind: str
) -> None:
    columns = {"user": [1, 2], "item": [1, 2], column: ids}
    path = write(tmp_path / "in.parquet", columns)
    with pytest.raises(UserError) as error:
        read_history_file(path, no_report)
    assert str(error.value) == (
        f"{path}: column {column!r} is {kind}, wanted ids that are integers or text"
    )


@given(
    st.lists(
        st.one_of(
            st.integers(-(2**63), 2**64).map(str),
            st.sampled_from(["007", "1.0", "+1", "-0", "1e3", "x", " 1"]),
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
@settings(max_examples=25)
def test_users_are_integers_where_all_of_them_are_written_so(
    tmp_path_factory: pytest.TempPathFactory, users: list[str]
) -> None:
    columns = {"user": users, "item": [1] * len(users)}
    path = write(tmp_path_factory.mktemp("ids") / "in.csv", columns)
    reports: list[str] = []
    found = read_history_file(path, reports.append)["user"]
    # Users who are integers but for a few are worth a warning.
    assert all("holds integers in" in one for one in reports)

    def is_integer(text: str) -> bool:
        try:
            return str(int(text)) == text and -(2**63) <= int(text) < 2**63
        except ValueError:
            return False

    if all(map(is_integer, users)):
        assert found.dtype == np.int64 and found.tolist() == list(map(int, users))
    else:
        assert found.tolist() == users


def test_only_the_columns_that_count_are_read(tmp_path: Path) -> None:
    columns = {
        "blob": [f"text {n}" for n in range(99)],
        "item": [n % 7 for n in range(99)],
        "user": list(range(99)),
    }
    path = write(tmp_path / "in.parquet", columns)
    offset = pq.read_metadata(path).row_group(0).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(path)
    found = read_history_file(path, no_report)
    expected = pd.DataFrame({name: columns[name] for name in ("user", "item")})
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("name", ["user", "item", "time"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, name: str) -> None:
    names = ["user", "item", "time", name]
    path = write_csv(tmp_path / "in.csv", [[1, 2, 1_600_000_000, 3]], names)
    with pytest.raises(UserError, match=f"names column '{name}' 2 times, wanted it on"):
        read_history_file(path, no_report)


def test_the_command_says_how_many_times_are_missing(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    rows = [["a", "item 1", 1_600_000_000], ["a", "item 2", ""], ["b", "item 3", ""]]
    path = write_csv(tmp_path / "in.csv", rows, ["user", "item", "time"])
    flags = ["--checkpoint", str(finished), "--input", str(path)]
    flags += ["--output", str(tmp_path / "out.csv")]
    assert refused(recommend.main, flags, capsys) == (
        f"error: {path}: column 'time' is empty in 2 of 3 rows, first in row 2; wanted "
        "a value in every row, or drop the column 'time' to go by the order of rows\n"
    )


@pytest.mark.parametrize(
    "name", ["o.tsv", "o.txt", "o.csv.bz2", "o.json", "o.csv.gz.txt"]
)
def test_a_result_of_an_unknown_kind_is_refused(
    name: str, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    flags = ["--checkpoint", str(finished), "--input", "in.csv"]
    flags += ["--output", str(tmp_path / name)]
    said = refused(recommend.main, flags, capsys)
    assert said.startswith(f"error: --output {tmp_path / name} ends in none of .csv, ")
    assert ".csv.gz, .csv.zst, .parquet, .pq" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
