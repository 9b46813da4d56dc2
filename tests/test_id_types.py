"""Ids of every type: those of a file of items are found among those of the events."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plays import prepared, write_csv
from pytest import CaptureFixture
from runs import refused

from eqids import catalog as command
from eqids.config import UserError
from eqids.data import Dataset, open_dataset

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

TITLES = ["One", "Two", "Three"]


def write_items(path: Path, ids: Any) -> Path:
    if path.suffix == ".csv":
        return write_csv(
            path, list(zip(ids, TITLES, strict=False)), ("item_id", "title")
        )
    pq.write_table(pa.table({"item_id": ids, "title": TITLES[: len(ids)]}), path)
    return path


def events(folder: Path, ids: Any) -> str:
    """A source of one user who plays three items."""
    if isinstance(ids, list):
        rows = [("a", one, time) for time, one in enumerate(ids)]
        return f"csv:{write_csv(folder / 'plays.csv', rows)}"
    table = pa.table({"user_id": ["a"] * 3, "item_id": ids, "timestamp": [0, 1, 2]})
    pq.write_table(table, folder / "plays.parquet")
    return f"parquet:{folder / 'plays.parquet'}"


NUMBERS: dict[str, Any] = {
    "int64": pa.array([1, 2, 3]),
    "uint8": pa.array([1, 2, 3], pa.uint8()),
    "float64": pa.array([1.0, 2.0, 3.0]),
    "float32": pa.array([1, 2, 3], pa.float32()),
    "decimal": pa.array([Decimal(n) for n in (1, 2, 3)], pa.decimal128(10, 2)),
    "csv integers": ["1", "2", "3"],
    "csv floats": ["1.0", "2.0", "3.0"],
}


@pytest.mark.parametrize("of_items", NUMBERS)
@pytest.mark.parametrize("of_events", NUMBERS)
def test_numbers_are_one_item_however_two_files_spell_them(
    of_events: str, of_items: str, tmp_path: Path
) -> None:
    source, ids = events(tmp_path, NUMBERS[of_events]), NUMBERS[of_items]
    name = "items.csv" if isinstance(ids, list) else "items.parquet"
    items = write_items(tmp_path / name, ids)
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.eye(3, dtype=np.float32))
    said: list[str] = []
    dataset = prepared(
        tmp_path, source, items=items, cluster_vectors=str(vectors), said=said
    )
    found = dataset.items()
    titles = dict(zip(found["item"].astype(float), found["title"], strict=True))
    assert titles == {1.0: "One", 2.0: "Two", 3.0: "Three"}
    rows = dataset.item_vectors.reshape(dataset.num_slots, -1)[
        dataset.slot_of([1, 2, 3])
    ]
    np.testing.assert_allclose(rows[:, :3] @ rows[:, :3].T, np.eye(3), atol=1e-6)
    assert not any("does not name" in one or "no vector" in one for one in said)


def test_texts_are_one_item_only_where_they_are_spelled_alike(tmp_path: Path) -> None:
    source = events(tmp_path, ["007", "a", "3.0"])
    items = write_items(tmp_path / "items.csv", ["7", "a", "3"])
    found = prepared(tmp_path, source, items=items).items().set_index("item")
    assert found["title"].to_dict() == {"007": "007", "a": "Two", "3.0": "3.0"}


def test_files_without_any_item_show_what_they_have(tmp_path: Path) -> None:
    source = events(tmp_path, NUMBERS["int64"])
    items = write_items(tmp_path / "items.csv", ["tt1", "tt2"])
    with pytest.raises(UserError) as error:
        prepared(tmp_path, source, items=items)
    assert str(error.value) == (
        f"{items} names none of the 3 items, the first of which is 1; column "
        "'item_id' begins with 'tt1', wanted the ids of the events"
    )
    pq.write_table(
        pa.table({"item": ["x"], "vector": [[1.0, 2.0]]}), tmp_path / "v.parquet"
    )
    with pytest.raises(UserError, match="is 1; the first id of the vectors is 'x'"):
        prepared(tmp_path, source, cluster_vectors=str(tmp_path / "v.parquet"))
    with pytest.raises(UserError, match=r"items\.csv has no rows, wanted items"):
        prepared(tmp_path, source, items=write_items(items, []))
    assert not (tmp_path / "out").exists()


DAY = dt.datetime(2024, 5, 1)
KINDS: list[tuple[pa.DataType, list[Any], str, str]] = [
    (pa.int8(), [1, 2, 3, 4], "2", "4"),
    (pa.uint64(), [1, 2**64 - 1, 3, 4], str(2**64 - 1), "4"),
    (pa.float64(), [1.5, 2.0, 3.0, 4.0], "2", "4.0"),
    (pa.decimal128(9, 2), [Decimal(n) for n in range(1, 5)], "2", "4.00"),
    (pa.date32(), [(DAY + dt.timedelta(n)).date() for n in range(4)], "2024-05-02",
     "2024-05-04"),
    (pa.timestamp("ms"), [DAY + dt.timedelta(n) for n in range(4)], "2024-05-02",
     "2024-05-04T00:00:00"),
    (pa.timestamp("us", "UTC"), [DAY + dt.timedelta(n) for n in range(4)],
     "2024-05-02T02:00:00+02:00", "2024-05-04"),
    (pa.time64("us"), [dt.time(n) for n in range(4)], "01:00:00", "03:00:00"),
    (pa.time32("s"), [dt.time(n) for n in range(4)], "01:00:00", "03:00:00"),
    (pa.large_string(), [" 5", "5", "x", "y"], '" 5"', "y"),
    (pa.string_view(), ["a", "b", "c", "d"], "b", "d"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ids", "typed", "new"), KINDS, ids=[str(k[0]) for k in KINDS]
)
def test_ids_of_every_type_are_added_and_retired(
    kind: pa.DataType, ids: list[Any], typed: str, new: str, tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:  # fmt: skip
    dataset = prepared(tmp_path, events(tmp_path, pa.array(ids[:3], kind)))
    where = ["--data_dir", str(dataset.path)]
    row = 0 if typed.startswith('"') else 1
    slot = dataset.history(0)[row]
    retired_file = write_csv(tmp_path / "r.csv", [(typed.strip('"'),)], ("item_id",))
    command.main(["retire", *where, "--items", str(retired_file), "--dry_run"])
    assert "items 1 retired" in capsys.readouterr().out
    command.main(["retire", *where, "--ids", typed])
    retired = open_dataset(dataset.path)
    assert np.flatnonzero(retired.retired.reshape(-1)).tolist() == [slot]
    items = write_csv(tmp_path / "new.csv", [(new, "N")], ("item_id", "title"))
    command.main(["add", *where, "--items", str(items)])
    pq.write_table(
        pa.table({"item_id": pa.array(ids[3:], kind)}), tmp_path / "n.parquet"
    )
    said = refused(
        command.main, ["add", *where, "--items", str(tmp_path / "n.parquet")], capsys
    )
    assert "is in the catalog already" in said
    if not pa.types.is_large_string(kind) and kind != pa.string_view():
        bad = ["retire", *where, "--ids", "zz,yy"]
        said = refused(command.main, bad, capsys)
        assert "--ids: item 'zz' is not in the catalog of" in said
        assert (
            "and neither are 1 others; leave out" in said and "--skip_unknown" in said
        )
        command.main([*bad, "--skip_unknown"])
        assert "2 items left out" in capsys.readouterr().out


@pytest.fixture
def integers(tmp_path: Path) -> Dataset:
    return prepared(tmp_path, events(tmp_path, NUMBERS["int64"]))


def run(
    dataset: Dataset, name: str, rows: list[tuple], header: tuple, *more: str
) -> Any:
    items = write_csv(dataset.path.parent / "i.csv", rows, header)
    return [name, "--data_dir", str(dataset.path), "--items", str(items), *more]


@pytest.mark.parametrize("bad", ["NULL", "zz", "1700000000000000000000", "2.5"])
def test_ids_that_the_catalog_cannot_hold_are_named(
    integers: Dataset, bad: str, capsys: CaptureFixture[str]
) -> None:
    rows = [
        ("8", "Eight", "1"),
        (bad, "x", "1"),
        ("9", "Nine", "2"),
        (bad + "1", "y", ""),
    ]
    header = ("item_id", "title", "similar")
    said = refused(command.main, run(integers, "add", rows, header), capsys)
    assert (
        f"i.csv: column 'item_id' is {bad!r} in row 2 and in 1 others, wanted" in said
    )
    assert "int64" in said
    said = refused(command.main, run(integers, "retire", rows, header), capsys)
    assert "i.csv, row 1: item '8' is not in the catalog of" in said
    assert "and neither are 3 others" in said
    near = [("8", "Eight", "1"), ("9", "Nine", f"2 {bad}"), ("10", "Ten", f"{bad},7")]
    said = refused(command.main, run(integers, "add", near, header), capsys)
    assert f"i.csv: column 'similar' names {bad!r} in row 2" in said
    assert "and neither are 2 others" in said
    command.main(
        run(integers, "retire", [*rows, ("3.0", "", "")], header, "--skip_unknown")
    )
    assert "items 1 retired (4 items left out)" in capsys.readouterr().out


def test_similar_items_of_rows_that_are_left_out_are_not_looked_up(
    integers: Dataset, capsys: CaptureFixture[str]
) -> None:
    rows = [("1", "One", "nobody"), ("8", "Eight", "2")]
    header = ("item_id", "title", "similar")
    command.main(run(integers, "add", rows, header, "--skip_known"))
    assert "items 1 added (1 items left out)" in capsys.readouterr().out
    found = open_dataset(integers.path)
    one, other = found.item_vectors.reshape(found.num_slots, -1)[found.slot_of([8, 2])]
    np.testing.assert_array_equal(one, other)


def test_rows_of_one_id_that_is_spelled_in_two_ways(
    integers: Dataset, capsys: CaptureFixture[str]
) -> None:
    header = ("item_id", "title")
    rows = [("7", "a"), ("8", "c"), ("7.0", "b")]
    said = refused(command.main, run(integers, "add", rows, header), capsys)
    assert "item '7': its title is 'a' in row 1 and 'b' in row 3; delete one" in said
    command.main(run(integers, "add", [*rows[:2], ("7.0", "a"), (" 7", "a")], header))
    assert "items 2 added (2 named again)" in capsys.readouterr().out
    frame: pd.DataFrame = open_dataset(integers.path).items().set_index("item")
    assert frame["title"].to_dict() == {1: "1", 2: "2", 3: "3", 7: "a", 8: "c"}


def test_an_id_in_quotes_is_taken_as_it_is(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    dataset = prepared(tmp_path, events(tmp_path, pa.array([" 5", "5", "x"])))
    where = ["retire", "--data_dir", str(dataset.path), "--ids"]
    for typed, row in ((' "5"', 1), ('" 5" ', 0)):
        command.main([*where, typed])
        now = open_dataset(dataset.path)
        assert now.retired.reshape(-1)[dataset.history(0)[row]]
        assert now.retired.sum() == 2 - row
    capsys.readouterr()
