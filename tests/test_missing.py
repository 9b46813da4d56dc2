"""Rows without a value: counted and refused, or counted and left out."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import HEADER, item_histories, prepared, write_csv

from eqids.config import UserError

pytestmark = pytest.mark.filterwarnings(
    "ignore:fetch_arrow_table:DeprecationWarning",
)

_WORDS = st.sampled_from(
    ["NULL", "null", "(null)", "\\N", "nan", "NaN", "-nan", "None", "none", "NA", "N/A",
     "#N/A", "<NA>", "NaT", "nil", "undefined", " ", " NULL "]
)  # fmt: skip
_GOOD = [("1", "10", "100"), ("1", "11", "101"), ("1", "12", "102"), ("2", "10", "103")]


def _write(folder: Path, rows: list[tuple], kind: str) -> str:
    if kind == "csv":
        return f"csv:{write_csv(folder / 'a', rows)}"
    columns = [[cell or None for cell in column] for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(dict(zip(HEADER, columns, strict=True))), folder / "a")
    return f"parquet:{folder / 'a'}"


@given(
    word=_WORDS,
    column=st.integers(0, 2),
    places=st.sets(st.integers(0, 9), min_size=1, max_size=4),
    kind=st.sampled_from(["csv", "parquet"]),
)
@settings(max_examples=12)
def test_null_words_among_numbers_are_no_values(
    tmp_path_factory: pytest.TempPathFactory,
    word: str,
    column: int,
    places: set[int],
    kind: str,
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    rows = [(str(n % 2), str(n), str(100 + n)) for n in range(10)]
    rows = rows + [("0", "3", "120"), ("1", "3", "121"), ("0", "4", "122")]
    bad = [
        tuple(word if n in places and c == column else cell for c, cell in enumerate(r))
        for n, r in enumerate(rows)
    ]
    source = _write(folder, bad, kind)
    with pytest.raises(UserError) as caught:
        prepared(folder, source)
    said = str(caught.value)
    assert f"{HEADER[column]!r} is {word!r} in {len(places)} of 13 rows" in said
    assert f"first in row {min(places) + 1}" in said and "--missing drop" in said
    assert not (folder / "out").exists()
    reports: list[str] = []
    dataset = prepared(folder, source, missing="drop", said=reports)
    kept = [row for n, row in enumerate(rows) if n not in places]
    as_id = int if kind == "csv" else str
    wanted: dict = {}
    for user, item, _ in kept:
        wanted.setdefault(as_id(user), []).append(as_id(item))
    assert item_histories(dataset) == wanted
    assert dataset.info.counts.missing_dropped == len(places)
    assert any(f"{len(places)} rows are left out" in one for one in reports)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_null_words_among_texts_are_ids_and_said(tmp_path: Path, kind: str) -> None:
    rows = [("ann", "NA", "1"), ("ann", "NaN", "2"), ("ann", "x", "3")]
    reports: list[str] = []
    dataset = prepared(tmp_path, _write(tmp_path, rows, kind), said=reports)
    assert item_histories(dataset) == {"ann": ["NA", "NaN", "x"]}
    (warning,) = [one for one in reports if "--null_values" in one]
    assert "'item_id' is 'NA' or the like in 2 of 3 rows, first in row 1" in warning


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_null_values_are_empty_cells(tmp_path: Path, kind: str) -> None:
    rows = [("ann", "-", "0"), ("ann", "x", "5"), ("ann", "y", "6"), ("ann", "z", "7")]
    source = _write(tmp_path, rows, kind)
    with pytest.raises(UserError, match="'item_id' is empty in 1 of 4 rows"):
        prepared(tmp_path, source, null_values=("-", "?"))
    dataset = prepared(tmp_path, source, null_values=("-", "?"), missing="drop")
    assert item_histories(dataset) == {"ann": ["x", "y", "z"]}


def test_all_columns_that_lack_values_are_counted(tmp_path: Path) -> None:
    rows = [*_GOOD, ("", "10", "5"), ("2", "", ""), ("2", "11", "nan"), ("2", "9", "")]
    reports: list[str] = []
    source = f"csv:{write_csv(tmp_path / 'a', rows)}"
    dataset = prepared(tmp_path, source, missing="drop", said=reports)
    assert dataset.info.counts.rows_read == 8
    assert dataset.info.counts.missing_dropped == 4
    (line,) = [one for one in reports if "left out" in one]
    assert line.startswith("4 rows are left out (--missing drop)")
    assert "'user_id' 1, 'item_id' 1, 'timestamp' 3" in line


def test_times_may_be_left_out_or_gone_without(tmp_path: Path) -> None:
    rows = [*_GOOD, ("2", "11", ""), ("2", "12", "NULL"), ("2", "13", "109")]
    source = f"csv:{write_csv(tmp_path / 'a', rows)}"
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, source)
    said = str(caught.value)
    assert "is empty in 1 of 7 rows, first in row 5, and is 'NULL' in 1 of 7" in said
    assert "first in row 6" in said
    assert "--time_column None" in said and "--order_column" in said
    dataset = prepared(tmp_path, source, time_column=None)
    assert dataset.times is None
    assert item_histories(dataset)[2] == [10, 11, 12, 13]


def test_ratings_count_only_where_they_filter(tmp_path: Path) -> None:
    rows = [(*row, "5") for row in _GOOD] + [("2", "11", "104", "NA")]
    path = write_csv(tmp_path / "a", rows, [*HEADER, "stars"])
    settings_ = {"rating_column": "stars", "min_rating": 4.0}
    with pytest.raises(UserError, match="'stars' is 'NA' in 1 of 5 rows, first in row"):
        prepared(tmp_path, f"csv:{path}", **settings_)
    dataset = prepared(tmp_path, f"csv:{path}", missing="drop", **settings_)
    assert dataset.info.num_events == 4
    dataset = prepared(tmp_path, f"csv:{path}", rating_column="stars", overwrite=True)
    assert dataset.info.num_events == 5


def test_a_file_without_one_whole_row_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a", [("1", "", "3"), ("", "2", "3"), ("1", "2", "")])
    with pytest.raises(UserError, match="none of 3 rows has a value in all of user_id"):
        prepared(tmp_path, f"csv:{path}", missing="drop")


def test_wrong_values_are_no_missing_ones(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a", [*_GOOD, ("1", "13", "soon"), ("1", "14", "")])
    with pytest.raises(UserError, match="'timestamp' is 'soon' in row 5"):
        prepared(tmp_path, f"csv:{path}", missing="drop")
