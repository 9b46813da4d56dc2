"""Times in any unit, and orders without times."""

import datetime as dt
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import HEADER, item_histories, prepared, write_csv

from eqids.config import TimeUnit, UserError
from eqids.data.raw.times import SECONDS, YEAR_1971, YEAR_2100, date, unit_of
from eqids.prepare import main as prepare_main

pytestmark = pytest.mark.filterwarnings(
    "ignore:fetch_arrow_table:DeprecationWarning",
)

UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
PANDAS = {
    "days": "D", "hours": "h", "minutes": "min", "seconds": "s", "milliseconds": "ms",
    "microseconds": "us", "nanoseconds": "ns",
}  # fmt: skip
FINE = UNITS[UNITS.index("seconds") :]
_DAY = 86_400


@given(
    st.lists(st.integers(YEAR_1971, YEAR_2100 - 1), min_size=1), st.sampled_from(FINE)
)
def test_fine_units_of_plausible_years_are_found(
    times: list[int], unit: TimeUnit
) -> None:
    numbers = [int(time / SECONDS[unit]) for time in times]
    taken = unit_of(min(numbers), max(numbers))
    assert taken.fits and taken.unit == unit
    assert (taken.why == "") == (unit == "seconds")


_RECENT = st.integers(7_310, 23_000)  # days from 1990 to 2032


@given(st.lists(_RECENT, min_size=2, max_size=9), st.sampled_from(["days", "hours"]))
def test_coarse_units_of_recent_years_are_found(
    days: list[int], unit: TimeUnit
) -> None:
    numbers = [int(day * _DAY / SECONDS[unit]) for day in days]
    taken = unit_of(min(numbers), max(numbers))
    assert taken.fits and taken.unit == unit


@given(st.integers(0, 7_000), st.integers(0, 10_000))
def test_ranks_and_counters_are_not_taken_for_times(least: int, more: int) -> None:
    taken = unit_of(least, least + more)
    assert taken.unit == "seconds" and not taken.fits and taken.why


@given(
    when=st.lists(st.integers(-(2**31), 2**32), min_size=3, max_size=6),
    unit=st.sampled_from(UNITS),
    fraction=st.integers(0, 10**9 - 1),
    kind=st.sampled_from(["csv", "parquet"]),
)
@settings(max_examples=15)
def test_times_are_those_of_pandas(
    tmp_path_factory: pytest.TempPathFactory,
    when: list[int],
    unit: TimeUnit,
    fraction: int,
    kind: str,
) -> None:
    exact = [Fraction(time) + Fraction(fraction, 10**9) for time in when]
    numbers = [int(time // SECONDS[unit]) for time in exact]
    folder = tmp_path_factory.mktemp("units")
    rows = [("a", f"i{n}", number) for n, number in enumerate(numbers)]
    if kind == "csv":
        source = f"csv:{write_csv(folder / 'a', rows)}"
    else:
        columns = map(list, zip(*rows, strict=True))
        pq.write_table(pa.table(dict(zip(HEADER, columns, strict=True))), folder / "a")
        source = f"parquet:{folder / 'a'}"
    dataset = prepared(folder, source, time_unit=unit)
    stamps = [pd.Timestamp(0) + pd.Timedelta(n, PANDAS[unit]) for n in numbers]
    wanted = sorted(pd.Series(stamps).astype("datetime64[ns]").astype("int64") // 10**9)
    assert dataset.times is not None and dataset.times.tolist() == wanted
    assert dataset.info.time_unit == unit


@pytest.mark.parametrize("unit", [u for u in UNITS if u not in ("seconds", "minutes")])
@pytest.mark.parametrize("kind", ["csv", "parquet", "float"])
def test_prepare_finds_the_unit_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture, unit: TimeUnit, kind: str
) -> None:
    days = [dt.date(2019, 5, 1), dt.date(2020, 2, 29), dt.date(2021, 7, 4)]
    seconds = [(day - dt.date(1970, 1, 1)).days * _DAY for day in days]
    numbers: list = [int(time / SECONDS[unit]) for time in seconds]
    if kind == "float":
        numbers = [float(number) for number in numbers]
    pq.write_table(
        pa.table({"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": numbers}),
        tmp_path / "a",
    )
    source = f"parquet:{tmp_path / 'a'}"
    if kind == "csv":
        rows = [(1, n, number) for n, number in enumerate(numbers)]
        source = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    prepare_main(["--source", source, "--data_dir", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert f"taken as {unit}: as seconds all of them are" in said
    assert f"times     2019-05-01 to 2021-07-04 (from {unit})" in said


def test_the_range_of_times_is_always_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [("a", n, 1_577_836_800 + n * _DAY) for n in range(3)]
    source = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    prepare_main(["--source", source, "--data_dir", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "times     2020-01-01 to 2020-01-03 (from seconds)" in said
    assert "taken as" not in said and "warning" not in said


@pytest.mark.parametrize(
    ("times", "settings_", "message"),
    [
        ([20200101, 20200215, 20201231], {}, "look like dates written as YYYYmmdd"),
        ([20200101.0, 20200215.0, 20201231.0], {}, "written as YYYYmmdd"),
        ([202401, 202405, 202312], {}, "written as YYYYmm"),
        ([240501, 240430, 231224], {}, "written as YYmmdd"),
        ([1905011230, 1905311259, 1812240001], {}, "written as YYmmddHHMM"),
        ([2024050112, 2024053100, 2023122423], {}, "written as YYYYmmddHH"),
        ([202405011230, 202405311259, 202312240001], {}, "written as YYYYmmddHHMM"),
        ([20200101120000, 20200215120059, 20201231235900], {}, "YYYYmmddHHMMSS"),
        ([10**16, 10**16 + 1, 10**16 + 2], {},
         "no other unit puts them between 1971 and 2100; wanted --time_unit"),
        ([10**18, 3 * 10**18, 4 * 10**18], {"time_unit": "days"}, "too large for days"),
        (["2020-01-01", "2020-01-02", "2020-01-03"], {"time_unit": "milliseconds"},
         "--time_unit is milliseconds, and .* holds dates"),
    ],
)  # fmt: skip
def test_implausible_times_are_refused(
    tmp_path: Path, times: list, settings_: dict, message: str
) -> None:
    rows = [("a", n, time) for n, time in enumerate(times)]
    source = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, source, **settings_)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_that_is_given_is_not_doubted(tmp_path: Path, unit: TimeUnit) -> None:
    rows = [("a", n, 20200101 + n) for n in range(3)]
    reports: list[str] = []
    source = f"csv:{write_csv(tmp_path / 'a.csv', rows)}"
    dataset = prepared(tmp_path, source, time_unit=unit, said=reports)
    first = int(20200101 * SECONDS[unit] // 1)
    assert dataset.times is not None and dataset.times[0] == first
    assert not any("time_unit" in one for one in reports)


def test_ranks_given_as_times_are_warned_of(tmp_path: Path) -> None:
    reports: list[str] = []
    rows = [("a", n, n) for n in range(3)]
    prepared(tmp_path, f"csv:{write_csv(tmp_path / 'a.csv', rows)}", said=reports)
    (warning,) = [one for one in reports if one.startswith("warning")]
    assert "holds numbers from 0 to 2" in warning and "--order_column" in warning


def test_units_that_are_mixed_are_warned_of(tmp_path: Path) -> None:
    reports: list[str] = []
    rows = [("a", 1, 1_577_836_800), ("a", 2, 1_577_836_801_000), ("a", 3, 5 * 10**12)]
    prepared(tmp_path, f"csv:{write_csv(tmp_path / 'a.csv', rows)}", said=reports)
    assert any("are all of them in one unit" in one for one in reports)


@pytest.mark.parametrize(
    ("seconds", "day"),
    [(0, "1970-01-01"), (-1, "1969-12-31"), (10**11, "5138-11-16"),
     (10**15, "after year 9999"), (-(10**15), "before year 1")],
)  # fmt: skip
def test_dates(seconds: int, day: str) -> None:
    assert date(seconds) == day


_ORDERED = [("a", "x", 3), ("a", "y", 1), ("b", "x", 9), ("a", "z", 2), ("b", "y", 8)]
_BY_ORDER = {"a": ["y", "z", "x"], "b": ["y", "x"]}


@pytest.mark.parametrize(
    "ranks",
    [[3, 1, 9, 2, 8], [0.3, -1.5, 0.9, 0.2, 0.8],
     ["2020-01-03", "2020-01-01", "2020-01-09", "2020-01-02", "2020-01-08"]],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_order_needs_no_times(tmp_path: Path, ranks: list, kind: str) -> None:
    rows = [(u, i, rank) for (u, i, _), rank in zip(_ORDERED, ranks, strict=True)]
    names = ("user_id", "item_id", "position")
    if kind == "csv":
        source = f"csv:{write_csv(tmp_path / 'a', rows, names)}"
    else:
        columns = map(list, zip(*rows, strict=True))
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "a")
        source = f"parquet:{tmp_path / 'a'}"
    dataset = prepared(tmp_path, source, order_column="position")
    assert item_histories(dataset) == _BY_ORDER
    assert dataset.times is None and dataset.info.time_unit is None
    assert dataset.info.protocol.order_column == "position"


def test_an_order_goes_before_coarse_times(tmp_path: Path) -> None:
    names = ("user_id", "item_id", "position", "timestamp")
    days = [_DAY, 0, 5 * _DAY, _DAY, 5 * _DAY]
    rows = [(*row, 40_000_000 + day) for row, day in zip(_ORDERED, days, strict=True)]
    source = f"csv:{write_csv(tmp_path / 'a', rows, names)}"
    dataset = prepared(tmp_path, source, order_column="position")
    assert item_histories(dataset) == _BY_ORDER
    assert dataset.times is not None
    assert (dataset.times - 40_000_000).tolist() == [
        0, _DAY, _DAY, 5 * _DAY, 5 * _DAY
    ]  # fmt: skip
    rows[0] = ("a", "x", 3, 39_000_000)
    write_csv(tmp_path / "a", rows, names)
    message = (
        "'timestamp' falls in row 1, where column 'position' rises, for user 'a'; .*"
        "--time_column None"
    )
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, source, order_column="position", overwrite=True)


def test_ties_and_copies_in_an_order(tmp_path: Path) -> None:
    names = ("user_id", "item_id", "position")
    rows = [("a", "y", 1), ("a", "x", 1), ("a", "z", 0), ("a", "y", 1), ("a", "y", 2)]
    source = f"csv:{write_csv(tmp_path / 'a', rows, names)}"
    dataset = prepared(tmp_path, source, order_column="position")
    assert item_histories(dataset) == {"a": ["z", "y", "x", "y"]}
    assert dataset.info.counts.duplicates_dropped == 1
    assert dataset.info.counts.tied_neighbours == 1


@pytest.mark.parametrize(
    ("rows", "settings_", "message"),
    [
        ([(*_ORDERED[0][:2], "")], {}, "'position' is empty in 1 of 5 rows, first in"),
        ([(*_ORDERED[0][:2], "first")], {}, "'position' is 'first' in row 1, wanted"),
        ([], {"order_column": "place"}, "no column 'place'.*--order_column"),
        ([], {"time_column": "when"}, "no column 'when'.*--time_column"),
        ([], {"split": "temporal"}, "--split temporal needs times"),
    ],
)
def test_bad_orders_are_explained(
    tmp_path: Path, rows: list, settings_: dict, message: str
) -> None:
    names = ("user_id", "item_id", "position")
    rows = [*rows, *_ORDERED[len(rows) :]]
    source = f"csv:{write_csv(tmp_path / 'a', rows, names)}"
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, source, **{"order_column": "position", **settings_})


@pytest.mark.parametrize(
    ("form", "written"),
    [("%d.%m.%Y", "05.01.2024"), ("%m/%d/%y %I:%M %p", "01/05/24 06:30 PM"),
     ("%d %b %Y", "5 Jan 2024")],
)  # fmt: skip
def test_times_of_a_given_form_are_those_of_python(
    form: str, written: str, tmp_path: Path
) -> None:
    later = dt.datetime(2024, 2, 17).strftime(form)
    last = dt.datetime(2024, 3, 1).strftime(form)
    rows = [("a", 1, later), ("a", 2, written), ("a", 3, last)]
    rows += [("b", n, written) for n in (1, 2, 3)]
    path = write_csv(tmp_path / "plays.csv", rows)
    dataset = prepared(tmp_path, f"csv:{path}", time_format=form)
    histories = item_histories(dataset)
    assert histories["a"] == [2, 1, 3]
    expected = dt.datetime.strptime(written, form).replace(tzinfo=dt.UTC)
    assert dataset.times is not None
    assert int(dataset.times.min()) == int(expected.timestamp())


def test_times_of_another_form_are_refused(tmp_path: Path) -> None:
    rows = [("a", 1, "05.01.2024"), ("a", 2, "05/01/2024"), ("a", 3, "06.01.2024")]
    path = write_csv(tmp_path / "plays.csv", rows)
    wanted = r"'05/01/2024' in row 2, wanted a time like 31.12.2024 \(--time_format"
    with pytest.raises(UserError, match=wanted):
        prepared(tmp_path, f"csv:{path}", time_format="%d.%m.%Y")
    with pytest.raises(UserError, match="in row 1, .*; --time_format reads others"):
        prepared(tmp_path, f"csv:{path}")
    with pytest.raises(UserError, match="wanted a form with a year, a month and a day"):
        prepared(tmp_path, f"csv:{path}", time_format="dd.mm.yyyy")
    spelled = write_csv(tmp_path / "n.csv", [("a", n, n) for n in (1, 2, 3)])
    with pytest.raises(UserError, match="holds numbers, wanted a time like 31.12.2024"):
        prepared(tmp_path, f"csv:{spelled}", time_format="%d.%m.%Y")
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({n: [1, 2] for n in HEADER}), numbers)
    with pytest.raises(UserError, match="'timestamp' of .* is int64, wanted text"):
        prepared(tmp_path, f"parquet:{numbers}", time_format="%d.%m.%Y")
