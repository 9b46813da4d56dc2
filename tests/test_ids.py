"""Ids are read in one way: as users, files, command lines and Python spell them."""

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, strategies as st
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import catalog, prepare, recommend, train
from eqids.data import open_dataset
from eqids.data.id_values import as_ids
from eqids.data.ids import Ids, typed_ids

INTEGERS = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-(2**50), 2**50)


def spellings(number: int) -> list[Any]:
    """What stands for an integer that a float holds exactly."""
    known = [str(number), f"{number}.0", f" {number} ", Decimal(number), float(number)]
    return [*known, number, np.int64(number), np.float64(number), str(number).encode()]


def test_one_id_is_spelled_as_in_its_column() -> None:
    numbers = Ids(pa.chunked_array([pa.array([5, 7])]))
    given = ("7", 7.0, "9", 9, "nine", 2**70)
    expected = [(1, 7), (1, 7), (-1, 9), (-1, 9), (-1, None), (-1, None)]
    assert [numbers.find_one(value) for value in given] == expected
    texts = Ids(pa.chunked_array([pa.array(["a", "7"])]))
    assert [texts.find_one(value) for value in ("a", 7, 9)] == [
        (0, "a"), (1, "7"), (-1, "9")
    ]  # fmt: skip


@given(st.sets(SMALL, min_size=1, max_size=8), st.sampled_from(["int64", "float64"]))
def test_a_number_is_found_however_it_is_spelled(numbers: set[int], kind: str) -> None:
    ids = sorted(numbers)
    column = pa.chunked_array([pa.array(ids, pa.int64()).cast(kind)])
    known = Ids(column)
    for row, number in enumerate(ids):
        assert set(known.find(spellings(number)).tolist()) == {row}
    beside = {n + 1 for n in ids} - numbers
    assert set(known.find([s for n in beside for s in spellings(n)]).tolist()) <= {-1}
    halves = [f"{n}.5" for n in ids] + [Decimal(n) + Decimal("0.25") for n in ids]
    assert set(known.find(halves).tolist()) == {-1}


@given(st.sets(INTEGERS, min_size=1, max_size=8))
@example({2**53, 2**53 + 1})
def test_large_integers_stay_apart(numbers: set[int]) -> None:
    ids = sorted(numbers)
    known = Ids(pa.chunked_array([pa.array(ids, pa.int64())]))
    for values in (ids, map(str, ids), map(Decimal, ids), np.array(ids)):
        assert known.find(values).tolist() == list(range(len(ids)))


@given(
    st.sampled_from([64, 32]).flatmap(
        lambda width: st.tuples(
            st.sets(
                st.floats(allow_nan=False, allow_infinity=False, width=width),
                min_size=1,
                max_size=8,
            ),
            st.just(f"float{width}"),
        )
    )
)
def test_floats_are_found_by_value_and_by_text(drawn: tuple[set[float], str]) -> None:
    numbers, kind = drawn
    ids = sorted(numbers)
    known = Ids(pa.chunked_array([pa.array(ids, kind)]))
    rows = list(range(len(ids)))
    assert known.find(ids).tolist() == rows
    assert known.find([repr(one) for one in ids]).tolist() == rows
    assert known.find([Decimal(repr(one)) for one in ids]).tolist() == rows
    assert known.find(np.array(ids)).tolist() == rows


@given(st.sets(st.text(max_size=6), min_size=1, max_size=8))
def test_texts_are_found_as_they_are_written(texts: set[str]) -> None:
    ids = sorted(texts)
    known = Ids(pa.chunked_array([pa.array(ids, pa.string())]))
    rows = list(range(len(ids)))
    assert known.find(ids).tolist() == rows
    assert known.find(pd.Series(ids, dtype=object)).tolist() == rows
    padded = [f" {one}" for one in ids if f" {one}" not in texts]
    assert set(known.find(padded).tolist()) <= {-1}


def test_numbers_find_texts_that_spell_them() -> None:
    known = Ids(pa.chunked_array([["7", "007", "3.0", "2024-05-01", "0.5", "True"]]))
    day = datetime.date(2024, 5, 1)
    found = known.find([7, 7.0, np.int32(7), Decimal(7), "007", 3.0, day, 0.5, True])
    assert found.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]
    moments = [pd.Timestamp(day), datetime.datetime(2024, 5, 1), np.datetime64(day)]
    assert known.find(moments).tolist() == [3, 3, 3]
    assert known.find(["07", 3, "7.0", None, np.nan, pd.NaT]).tolist() == [-1] * 6


NOON = datetime.datetime(2024, 5, 1, 12)


@pytest.mark.parametrize(
    ("kind", "one", "spelled", "others"),
    [
        (pa.uint8(), 200, ["200", 200.0, b"200"], [-56, 456, "456", True]),
        (pa.int64(), 1, ["1", 1.0, "1.0", "1e0"], [True, "01", "+1", "1_0", "0x1", ""]),
        (pa.decimal128(6, 2), Decimal("3.10"), ["3.1", "3.10", 3.1], [3, "3.11"]),
        (pa.date32(), NOON.date(), ["2024-05-01", np.datetime64("2024-05-01")], [NOON]),
        (
            pa.timestamp("ns"), NOON,
            ["2024-05-01 12:00:00", "2024-05-01T12:00:00Z", pd.Timestamp(NOON)],
            [NOON.date(), 1714564800, "2024"],
        ),
        (
            pa.timestamp("s", "Europe/Berlin"), NOON.replace(tzinfo=datetime.UTC),
            ["2024-05-01T14:00:00+02:00", NOON], ["2024-05-01T12:00:00+02:00"],
        ),
        (pa.bool_(), True, ["true", "True", np.True_], [1, "1", False]),
        (pa.time64("us"), NOON.time(), ["12:00:00"], ["12:00"]),
        (pa.large_string(), "a", [b"a"], ["A", 1]),
    ],
)  # fmt: skip
def test_ids_of_any_type_are_found(
    kind: pa.DataType, one: Any, spelled: list[Any], others: list[Any]
) -> None:
    known = Ids(pa.chunked_array([pa.array([one], kind)]))
    assert known.find([one, *spelled]).tolist() == [0] * (1 + len(spelled))
    assert known.find([*others, None, [one], {}]).tolist() == [-1] * (len(others) + 3)


def test_uuids_are_texts() -> None:
    one = uuid.UUID(int=7)
    assert Ids(pa.chunked_array([[str(one)]])).find([one]).tolist() == [0]


@given(st.lists(SMALL, min_size=1, max_size=8))
def test_ids_of_a_file_become_those_of_the_catalog(numbers: list[int]) -> None:
    expected = pa.array(numbers, pa.int64())
    columns = [expected, expected.cast("float64"), expected.cast(pa.string())]
    columns.append(pa.array([f"{number}.0" for number in numbers]))
    for column in columns:
        for kind in (pa.int64(), pa.float64()):
            found = as_ids(pa.chunked_array([column]), kind)
            assert found.type == kind and found.to_pylist() == numbers


def quoted(one: str) -> str:
    return '"' + one.replace('"', '""') + '"'


@given(st.lists(st.tuples(st.text(), st.sampled_from(["", " ", "  "]))))
@example([(" 5", ""), ('a"b', " "), ("", ""), ('"', " "), ("a,b\n", "")])
def test_ids_in_quotes_are_taken_as_they_are(drawn: list[tuple[str, str]]) -> None:
    text = ",".join(space + quoted(one) + space for one, space in drawn)
    assert typed_ids(text) == [one for one, _ in drawn]


plain = st.text(st.characters(exclude_characters=',"\r\n'))


@given(st.lists(plain | st.tuples(st.text())))
def test_ids_without_quotes_are_stripped(drawn: list[str | tuple[str]]) -> None:
    fields = [one if isinstance(one, str) else quoted(*one) for one in drawn]
    stripped = [one.strip() if isinstance(one, str) else one for one in drawn]
    expected = [one if isinstance(one, str) else one[0] for one in stripped if one]
    assert typed_ids(",".join(fields)) == expected


def test_typed_ids() -> None:
    assert typed_ids(" 3, item 4 ,,") == ["3", "item 4"]
    assert typed_ids('a\r\nb\n"c\nd"') == ["a", "b", "c\nd"]
    assert typed_ids('5" nail, "a"b, "open') == ['5" nail', '"a"b', '"open']


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset whose ids are float64 in its source, and a run of two steps."""
    path = tmp_path_factory.mktemp("floats")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user_id": np.repeat(np.arange(12.0), 8)})
    table["item_id"] = rng.integers(0, 15, len(table)).astype(float)
    table["timestamp"] = 1_600_000_000 + np.arange(len(table))
    table.to_parquet(path / "plays.parquet")
    data = ["--data_dir", str(path / "d")]
    prepare.main(["--source", f"parquet:{path / 'plays.parquet'}", *data])
    sizes = "--batch_size 4 --seq_len 16 --item_width 8 --num_steps 2".split()
    train.main([*data, "--checkpoint_dir", str(path / "run"), *sizes])
    return path / "d", path / "run"


@pytest.mark.parametrize("typed", ["3", "3.0", "3.00", " 3 "])
def test_every_command_reads_an_id_in_the_same_way(
    typed: str, floats: tuple[Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    data, run = floats
    where = ["--checkpoint", str(run), "--k", "3"]
    shown = []
    for value in ("3.0", typed):
        recommend.main([*where, "--history", f"{value},5"])
        shown.append(capsys.readouterr().out)
        recommend.main([*where, "--user", value])
        shown.append(capsys.readouterr().out)
    assert shown[:2] == shown[2:] and shown[0].count("\n") == 3
    catalog.main(["retire", "--data_dir", str(data), "--ids", typed, "--dry_run"])
    assert "1 retired" in capsys.readouterr().out
    (tmp_path / "in.csv").write_text(f'user,item\na,"{typed}"\na,5\n')
    out = tmp_path / "out.csv"
    recommend.main([*where, "--input", str(tmp_path / "in.csv"), "--output", str(out)])
    items = pd.read_csv(out)["item"].tolist()
    assert items == [float(line.split()[2]) for line in shown[0].splitlines()]
    (tmp_path / "gone.csv").write_text(f'item_id\n"{typed}"\n')
    flags = ["--data_dir", str(data), "--items", str(tmp_path / "gone.csv")]
    catalog.main(["retire", *flags, "--dry_run"])
    assert "1 retired" in capsys.readouterr().out


def test_users_of_an_earlier_dataset_are_found_again(
    floats: tuple[Path, Path], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    source = ["--source", f"parquet:{floats[0].parent / 'plays.parquet'}"]
    catalog_ = ["--catalog", str(floats[0]), "--data_dir", str(tmp_path / "d")]
    prepare.main([*source, *catalog_])
    assert "are not in the source" not in "".join(capsys.readouterr())


def test_python_reads_an_id_in_the_same_way(floats: tuple[Path, Path]) -> None:
    recommender = eqids.load(floats[1])
    expected = recommender.recommend([[3.0, 5.0]], k=3, allow=[1.0, 2.0, 4.0])
    for three in (3, "3", np.int32(3), np.float32(3), Decimal(3)):
        found = recommender.recommend([[three, 5]], k=3, allow=["1", 2, np.int8(4)])
        pd.testing.assert_frame_equal(found, expected)
        slots = recommender.of_user(three).slots
        np.testing.assert_array_equal(slots, recommender.of_user(3.0).slots)
    frame = pd.DataFrame({"user": [0, 0], "item": pd.Categorical(["3", "5"])})
    found = recommender.recommend(frame, k=3, allow=["1.0", "2.0", "4.0"])
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("typed", ["03", "3,5.5", "three", "nan", "1e999", "True"])
def test_what_spells_no_id_is_refused(
    typed: str, floats: tuple[Path, Path], capsys: CaptureFixture[str]
) -> None:
    data, run = floats
    flags = ["--checkpoint", str(run), "--history", typed]
    said = refused(recommend.main, flags, capsys)
    assert f"{typed.split(',')[-1]!r} is not in the catalog of {data}" in said
    assert said.count("\n") == 1
    flags = ["retire", "--data_dir", str(data), "--ids", typed]
    assert typed.split(",")[-1] in refused(catalog.main, flags, capsys)
    assert open_dataset(data).info.catalog_version == 1
