"""Files as strangers have them: delimiters, times, ids, and what is wrong with them."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plays import HEADER, item_histories, prepared, write_csv

from eqids.config import UserError
from eqids.data.raw.engine import engine
from eqids.data.raw.tables import ROW, delimited, parquet

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:fetch_arrow_table:DeprecationWarning",
)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_million_rows_keep_the_order_of_the_file(tmp_path: Path, kind: str) -> None:
    rows = np.random.default_rng(0).permutation(1_000_000)
    table = pa.table({"value": rows})
    with engine() as reader:
        reader.con.raw_sql("SET threads = 4")
        if kind == "csv":
            path = tmp_path / "a.csv"
            path.write_text("value\n" + "\n".join(map(str, rows.tolist())) + "\n")
            read = delimited(reader, path, ",", ["value"], header=True)
        else:
            path = tmp_path / "a.parquet"
            pq.write_table(table, path, row_group_size=10_000)
            read = parquet(reader, path)
        stored = reader.con.create_table("stored", read.named(), temp=True)
        found = stored.order_by(ROW).to_pyarrow()
    assert found["value"].cast("int64").to_numpy().tolist() == rows.tolist()
    assert found[ROW].to_numpy().tolist() == list(range(1_000_000))


def test_the_index_of_a_data_frame_is_passed_over(tmp_path: Path) -> None:
    rows = [(0, "a", "x", 1), (1, "a", "y", 2), (2, "a", "z", 3)]
    path = write_csv(tmp_path / "a.csv", rows, ["", *HEADER])
    assert item_histories(prepared(tmp_path, f"csv:{path}")) == {"a": ["x", "y", "z"]}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::"])
def test_any_delimiter(tmp_path: Path, delimiter: str) -> None:
    lines = [HEADER, ("a", "x", "1"), ("a", "y", "2"), ("a", "z", "3")]
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(delimiter.join, lines)).encode())
    dataset = prepared(tmp_path, f"csv:{path}")
    assert item_histories(dataset) == {"a": ["x", "y", "z"]}


_MOMENT = 1_577_836_800  # 2020-01-01 00:00:00 UTC


@pytest.mark.parametrize(
    "times",
    [
        ["1577836800", "1577836801", "1577836802"],
        ["1577836800.0", "1577836801.25", "1.577836802e9"],
        ["2020-01-01", "2020-01-01 00:00:01", "2020-01-01 00:00:02.5"],
        ["2020-01-01T00:00:00Z", "2020-01-01T00:00:01Z", "2020-01-01T00:00:02Z"],
        ["2020-01-01 02:00:00+02:00", "2019-12-31 19:00:01-05", "2020-01-01T00:00:02"],
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_as_text(tmp_path: Path, times: list[str], kind: str) -> None:
    rows = [("a", f"item{n}", time) for n, time in enumerate(times)]
    if kind == "csv":
        source = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    else:
        columns = zip(HEADER, zip(*rows, strict=True), strict=True)
        pq.write_table(pa.table({n: list(c) for n, c in columns}), tmp_path / "a.pq")
        source = f"parquet:{tmp_path / 'a.pq'}"
    dataset = prepared(tmp_path, source)
    assert dataset.times is not None
    assert dataset.times.tolist() == [_MOMENT, _MOMENT + 1, _MOMENT + 2]


def _stamps(kind: pa.DataType) -> pa.Array:
    moment = dt.datetime(2020, 1, 1)
    return pa.array(
        [moment, moment + dt.timedelta(seconds=1)], pa.timestamp("us")
    ).cast(kind)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([_MOMENT, _MOMENT + 1]),
        pa.array([_MOMENT, _MOMENT + 1], pa.uint32()),
        pa.array([float(_MOMENT), _MOMENT + 1.75]),
        _stamps(pa.timestamp("s")),
        _stamps(pa.timestamp("ms")),
        _stamps(pa.timestamp("us", tz="UTC")),
        _stamps(pa.timestamp("ns", tz="America/New_York")),
        pa.array([dt.date(2020, 1, 1), dt.date(2020, 1, 2)]),
    ],
    ids=lambda times: str(times.type),
)
def test_times_of_every_type(tmp_path: Path, times: pa.Array) -> None:
    table = {"user_id": [1, 1], "item_id": [5, 6], "timestamp": times}
    more = {"user_id": [1], "item_id": [7], "timestamp": times[1:]}
    pq.write_table(pa.concat_tables([pa.table(table), pa.table(more)]), tmp_path / "a")
    dataset = prepared(tmp_path, f"parquet:{tmp_path / 'a'}")
    step = 86_400 if pa.types.is_date(times.type) else 1
    assert dataset.times is not None
    assert dataset.times.tolist() == [_MOMENT, _MOMENT + step, _MOMENT + step]


def test_fractions_of_a_second_order_events(tmp_path: Path) -> None:
    rows = [("a", 1, "10.7"), ("a", 2, "10.2"), ("a", 3, "-0.5"), ("a", 1, "10.7")]
    dataset = prepared(tmp_path, f"csv:{write_csv(tmp_path / 'a.csv', rows)}")
    assert item_histories(dataset) == {"a": [3, 2, 1]}
    assert dataset.times is not None
    assert dataset.times.tolist() == [-1, 10, 10]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([3, 1, 2]),
        pa.array([3, 1, 2], pa.int8()),
        pa.array([2**63 + 5, 1, 2], pa.uint64()),
        pa.array(["b", "", "a"]),
        pa.array(["3", "01", "2"]),
        pa.array([2.0, 1.5, -1.0]),
        pa.array([Decimal("1.50"), Decimal("2.00"), Decimal("0.25")]),
        pa.array([dt.date(2020, 1, 3), dt.date(2020, 1, 1), dt.date(2020, 1, 2)]),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_keep_their_type(tmp_path: Path, ids: pa.Array) -> None:
    table = {"user_id": ids.take([0, 0, 0]), "item_id": ids, "timestamp": [1, 2, 3]}
    pq.write_table(pa.table(table), tmp_path / "a")
    dataset = prepared(tmp_path, f"parquet:{tmp_path / 'a'}")
    found = pq.read_table(dataset.path / "items.parquet")["item"]
    assert found.type == ids.type
    assert set(found.to_pylist()) == set(ids.to_pylist())
    first = ids[0].as_py()
    assert dataset.user_index(first) == dataset.user_index(str(first)) == 0
    assert dataset.slot_of(ids.to_pylist()).tolist() == dataset.history(0).tolist()


def test_text_ids_are_integers_only_if_all_spell_one(tmp_path: Path) -> None:
    rows = [("7", "10", 1), ("7", "9", 2), ("7", "-3", 3), ("8", "9", 4)]
    dataset = prepared(tmp_path, f"csv:{write_csv(tmp_path / 'a.csv', rows)}")
    assert item_histories(dataset) == {7: [10, 9, -3], 8: [9]}
    (tmp_path / "b").mkdir()
    rows[3] = ("07", "9.0", 4)
    dataset = prepared(tmp_path / "b", f"csv:{write_csv(tmp_path / 'b.csv', rows)}")
    assert item_histories(dataset) == {"07": ["9.0"], "7": ["10", "9", "-3"]}


def test_recbole_files(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        '1\t5\t3\t10\n1\t"6\t5\t11\n1\t7\t4\t12\n1\t8\t1\t13\n'
    )
    (tmp_path / "a.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '5\tHeat\t1995\tCrime Thriller\n"6\tThe "X"\t\tSci-Fi\n'
    )
    dataset = prepared(tmp_path, f"recbole:{tmp_path / 'a.inter'}", min_rating=3.0)
    assert item_histories(dataset) == {1: ["5", '"6', "7"]}
    table = dataset.items().set_index("item")
    assert table.loc["5", "title"] == "Heat (1995)"
    assert table.loc["5", "text"] == "Heat (1995), Crime, Thriller"
    assert table.loc['"6', "title"] == 'The "X"'
    assert table.loc["7", "title"] == "7" and table.loc["7", "text"] == ""


_GOOD = [("a", 1, 10), ("a", 2, 11), ("a", 3, 12)]


@pytest.mark.parametrize(
    ("rows", "header", "settings", "message"),
    [
        (_GOOD, ("uid", "item_id", "timestamp"), {},
         r"no column 'user_id': it has uid, item_id, timestamp; .*--user_column"),
        (_GOOD, ("user_id", "item_id", "when"), {}, "--time_column, or 'None'"),
        (_GOOD, ("user_id", "item_id", "item_id"), {},
         "names column 'item_id' 2 times"),
        ([*_GOOD, ("a", 4, "")], HEADER, {},
         "'timestamp' is empty in 1 of 4 rows, first in row 4; .*--missing drop"),
        ([*_GOOD, ("", 4, 5)], HEADER, {},
         "'user_id' is empty in 1 of 4 rows, first in row 4"),
        ([("a", "", 4), *_GOOD], HEADER, {},
         "'item_id' is empty in 1 of 4 rows, first in row 1"),
        ([*_GOOD, ("a", 4, "soon")], HEADER, {},
         "column 'timestamp' is 'soon' in row 4, wanted numbers"),
        ([("a", 4, "soon"), *_GOOD], HEADER, {}, "is 'soon' in row 1"),
        ([("a", 1, "2020-01-01"), ("a", 2, "2020-13-01"), ("a", 3, "2020-01-03")],
         HEADER, {}, "is '2020-13-01' in row 2"),
        ([*_GOOD, ("a", 4, "inf")], HEADER, {}, "is 'inf' in row 4"),
        ([], HEADER, {}, "has no rows, only column names"),
        ([("a", 1, 1), ("b", 1, 2), ("b", 2, 3)], HEADER, {},
         "no user can be evaluated: the longest of 2 histories has 2 events"),
        (_GOOD, HEADER, {"split": "temporal"}, "no user can be evaluated"),
        (_GOOD, HEADER, {"split": "temporal", "time_column": None}, "needs times"),
        (_GOOD, HEADER, {"num_clusters": 4}, "--num_clusters is 4, wanted 1 to 3"),
        (_GOOD, HEADER, {"min_item_interactions": 2}, "--min_item_interactions 2"),
        (_GOOD, HEADER, {"min_rating": 3.0, "rating_column": "stars"},
         r"no column 'stars'.*--rating_column"),
        ([(*row, 5) for row in _GOOD] + [("a", 9, 9, "good")], (*HEADER, "stars"),
         {"min_rating": 3.0, "rating_column": "stars"},
         "column 'stars' is 'good' in row 4"),
        ([(*row, 1) for row in _GOOD], (*HEADER, "stars"),
         {"min_rating": 3.0, "rating_column": "stars"}, "no rating reaches"),
        ([*_GOOD, ("a", 4)], HEADER, {}, "CSV Error on Line: 5"),
        ([*_GOOD, ("a", 4, 5, 6)], HEADER, {}, "Expected Number of Columns: 3"),
    ],
)  # fmt: skip
def test_bad_tables_are_explained_and_leave_nothing(
    tmp_path: Path, rows: list, header: tuple, settings: dict, message: str
) -> None:
    path = write_csv(tmp_path / "bad.csv", rows, header)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, f"csv:{path}", **settings)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("csv:{}/none.csv", None, r"none\.csv does not exist"),
        ("csv:{}", None, "is a folder, wanted a file"),
        ("csv:{}/a", b"", "a is empty"),
        ("csv:{}/a", b"\n\n", "a is empty"),
        ("csv:{}/a", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("csv:{}/a", b"user_id,item_id,timestamp\na\xe9,1,1\n", "not UTF-8"),
        ("parquet:{}/a", b"user_id,item_id\n1,2\n", "cannot be read"),
        ("parquet:{}/a", b"", "a is empty"),
        ("recbole:{}/a", b"user_id\titem_id\n", "header of name:type"),
        ("mysql:{}/a", b"", "--source is .* wanted ml-100k, ml-1m"),
        ("csv:", b"", "--source is 'csv:', wanted"),
        ("{}/a", b"", "--source is .*, wanted csv:.*/a$"),
        ("{}", None, "--source is .*, wanted parquet:"),
        ("ml-1m:{}/none", None, "none does not exist"),
        ("ml-1m:{}", None, r"does not hold ratings\.dat with movies\.dat"),
        ("ml-20m:{}/a", b"no zip", "is not a whole zip file"),
    ],
)
def test_bad_files_are_explained(
    tmp_path: Path, source: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, source.format(tmp_path))


def test_nulls_and_odd_types_in_parquet(tmp_path: Path) -> None:
    good = {"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": [1, 2, 3]}
    for name, values, message in [
        (
            "user_id",
            [1, None, 1],
            "column 'user_id' is empty in 1 of 3 rows, first in row 2",
        ),
        (
            "item_id",
            [1.0, 2.0, float("nan")],
            "column 'item_id' is empty in 1 of 3 rows, first in row 3",
        ),
        (
            "timestamp",
            [1, None, 3],
            "column 'timestamp' is empty in 1 of 3 rows, first in row 2",
        ),
        ("timestamp", [True, False, True], "column 'timestamp' is boolean"),
        ("item_id", [[1], [2], [3]], "wanted ids that are integers or text"),
        (
            "item_id",
            pa.array([10**40 + n for n in range(3)], pa.decimal256(50)),
            r"decimal256\(50, 0\), which is not read exactly",
        ),
        ("timestamp", pa.array([1, 2, 3], pa.duration("s")), "duration.*exactly"),
    ]:
        pq.write_table(pa.table({**good, name: values}), tmp_path / "a")
        with pytest.raises(UserError, match=message):
            prepared(tmp_path, f"parquet:{tmp_path / 'a'}")
