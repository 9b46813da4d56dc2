"""Tables and files of histories without rows or ids; the files of results."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import recommend
from eqids.config import UserError
from eqids.inference.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    """One for all tests here."""
    return eqids.load(finished)


# Tables that are none


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(columns=["user", "item"]),
        pd.DataFrame(columns=["user", "item", "time"]),
        pd.DataFrame(),
        pd.DataFrame({"user": [], "item": [], "time": []}),
    ],
)
def test_tables_without_rows_are_refused(
    frame: pd.DataFrame, recommender: Recommender
) -> None:
    for given_ in (frame, [frame], [["item 1"], frame]):
        with pytest.raises(UserError, match=r"histories(\[\d\])?: no rows"):
            recommender.recommend(given_)
    with pytest.raises(UserError, match="there are no histories, wanted at least one"):
        recommender.recommend([])


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("columns", [[], ["user"], ["user", "item"], ["item", "time"]])
def test_files_without_rows_are_refused(
    name: str, columns: list[str], finished: Path, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text(",".join(columns) + "\n")
    else:
        pq.write_table(pa.table({column: pa.array([], "int64") for column in columns}),
                       path)  # fmt: skip
    flags = ["--checkpoint", str(finished), "--input", str(path)]
    flags += ["--output", str(tmp_path / "out.csv")]
    said = refused(recommend.main, flags, capsys)
    assert str(path) in said and said.count("\n") == 1
    whole = {"user", "item"} <= set(columns)
    assert not columns or ("no rows" if whole else "has no column") in said
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_columns_that_hold_no_ids_are_refused(recommender: Recommender) -> None:
    cases = {
        "histories: no column 'item', the columns are user": pd.DataFrame(
            {"user": [1]}
        ),
        "histories: 2 columns 'item', wanted one": pd.DataFrame(
            [[1, 2, 3]], columns=["user", "item", "item"]
        ),
        "histories: column 'item' holds a list in row 2": pd.DataFrame(
            {"user": [1, 2], "item": ["item 1", ["item 2"]]}
        ),
        "column 'item' is empty in 1 of 2 rows, first in row 2": pd.DataFrame(
            {"user": [1, 2], "item": ["item 1", None]}
        ),
    }
    for said, frame in cases.items():
        with pytest.raises(UserError, match=said):
            recommender.recommend(frame)


# Files


def test_a_result_is_replaced_only_with_overwrite(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text("user,item\n1,item 1\n")
    out = tmp_path / "out.csv"
    out.write_text("kept")
    flags = ["--checkpoint", str(finished), "--input", str(tmp_path / "in.csv")]
    flags += ["--output", str(out)]
    said = refused(recommend.main, flags, capsys)
    assert f"--output {out} exists already: add --overwrite to replace it" in said
    assert out.read_text() == "kept"
    recommend.main([*flags, "--overwrite"])
    columns = ["user", "rank", "item", "title", "probability"]
    assert pd.read_csv(out).columns.tolist() == columns
    flags = ["--checkpoint", str(finished), "--user", "user 1", "--overwrite"]
    assert "--overwrite needs --output" in refused(recommend.main, flags, capsys)


@pytest.mark.parametrize(
    ("name", "way"),
    [("o.csv", None), ("o.csv.gz", "gzip"), ("o.csv.zst", "zstd"), ("O.CSV", None)],
)
def test_a_result_is_what_its_name_says(
    name: str, way: str | None, recommender: Recommender, finished: Path, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "in.csv").write_text("user;item\n1;item 1\n")
    flags = ["--checkpoint", str(finished), "--input", str(tmp_path / "in.csv")]
    recommend.main([*flags, "--output", str(tmp_path / name), "--k", "2"])
    with pa.input_stream(str(tmp_path / name), compression=way) as file:
        found = pd.read_csv(file)
    expected = recommender.recommend([["item 1"]], k=2)
    assert found["item"].tolist() == expected["item"].tolist()
