"""Times of histories order events exactly, and mean what they mean to `prepare`."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import item_histories, prepared

from eqids.config import TimeUnit, UserError
from eqids.data import Dataset
from eqids.data.raw.history_files import read_history_file
from eqids.inference.histories import read_histories

START = 1_577_836_800
"""2020-01-01, in seconds."""
DAY = 86_400

SPELLINGS: dict[str, Callable[[list[int]], Any]] = {
    "seconds": lambda ns: [n // 10**9 for n in ns],
    "milliseconds": lambda ns: [n // 10**6 for n in ns],
    "microseconds": lambda ns: [n // 10**3 for n in ns],
    "nanoseconds": lambda ns: ns,
    "float seconds": lambda ns: [n // 10**6 / 1000 for n in ns],
    "decimals": lambda ns: [Decimal(n // 10**6) / 1000 for n in ns],
    "Int64": lambda ns: pd.array([n // 10**6 for n in ns], dtype="Int64"),
    "arrow": lambda ns: pd.array(ns, dtype=pd.ArrowDtype(pa.int64())),
    "objects": lambda ns: np.array([n // 10**6 for n in ns], object),
    "text of integers": lambda ns: [str(n) for n in ns],
    "text of floats": lambda ns: [str(n // 10**6 / 1000) for n in ns],
    "text": lambda ns: [str(np.datetime64(n // 10**3, "us")) for n in ns],
    "text with a zone": lambda ns: [f"{np.datetime64(n // 10**3, 'us')}Z" for n in ns],
    "categories": lambda ns: pd.Categorical([str(n) for n in ns]),
    "datetimes": lambda ns: np.array(
        [dt.datetime(2020, 1, 1) + dt.timedelta(microseconds=n // 1000 - START * 10**6)
         for n in ns], object),
    "datetime64[s]": lambda ns: np.array(ns, "M8[ns]").astype("M8[s]"),
    "datetime64[ms]": lambda ns: np.array(ns, "M8[ns]").astype("M8[ms]"),
    "datetime64[us]": lambda ns: np.array(ns, "M8[ns]").astype("M8[us]"),
    "datetime64[ns]": lambda ns: np.array(ns, "M8[ns]"),
    "a zone": lambda ns: pd.to_datetime(ns, utc=True).tz_convert("Asia/Tokyo"),
}  # fmt: skip
"""Nanoseconds since 1970, as columns of a table may say them."""


def no_report(message: str) -> None:
    """Fails where nothing should be said."""
    raise AssertionError(message)


def read(dataset: Dataset, frame: pd.DataFrame) -> dict[Any, tuple[list, list]]:
    """Item ids and seconds by user."""
    names = dataset.items().set_index("slot")["item"]
    found, _ = read_histories(dataset, frame, "refuse", lambda message: None)
    return {
        one.user: (names.loc[one.slots].tolist(), np.asarray(one.times).tolist())
        for one in found
    }


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1, 10**3, 10**6, 10**9]),
                  st.integers(0, 5)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
@settings(max_examples=12)
def test_events_come_in_the_order_of_their_exact_moments(
    dataset: Dataset, spelling: str, rows: list[tuple[str, int, int]]
) -> None:
    moments = [START * 10**9 + step * times for _, step, times in rows]
    frame = pd.DataFrame(
        {
            "user": [user for user, _, _ in rows],
            "item": [f"item {n}" for n in range(len(rows))],
            "time": SPELLINGS[spelling](moments),
        }
    )
    # Pandas sorts the same values; texts of numbers as the numbers that they spell.
    exact = frame["time"]
    if spelling in ("text of integers", "text of floats", "categories"):
        exact = exact.astype(str).map(Decimal)
    ordered = frame.assign(exact=exact, second=[m // 10**9 for m in moments])
    ordered = ordered.sort_values("exact", kind="stable")
    found = read(dataset, frame)
    assert list(found) == list(dict.fromkeys(ordered["user"]))
    for user, rows_of in ordered.groupby("user"):
        assert found[user] == (rows_of["item"].tolist(), rows_of["second"].tolist())


FILE_TIMES: dict[str, Callable[[np.ndarray], Any]] = {
    # Events of one user are some milliseconds apart.
    "seconds": lambda ms: pa.array(ms // 1000),
    "milliseconds": lambda ms: pa.array(ms),
    "microseconds": lambda ms: pa.array(ms * 1000),
    "floats": lambda ms: pa.array(ms / 1000),
    "timestamps": lambda ms: pa.array(ms, pa.timestamp("ms")),
    "timestamps in a zone": lambda ms: pa.array(ms * 1000, pa.timestamp("us", "CET")),
    "dates": lambda ms: pa.array((ms // 86_400_000).astype(np.int32), pa.date32()),
    "days": lambda ms: pa.array(ms // 86_400_000),
    "decimals": lambda ms: pa.array([Decimal(int(m)) / 1000 for m in ms]),
    "text": lambda ms: pa.array([f"{np.datetime64(int(m), 'ms')}Z" for m in ms]),
    "text with UTC": lambda ms: pa.array(
        [str(np.datetime64(int(m), "ms")).replace("T", " ") + " UTC" for m in ms]),
    "text with underscores": lambda ms: pa.array([f"{m // 1000:_}" for m in ms]),
    "text of floats": lambda ms: pa.array([str(m / 1000) for m in ms]),
}  # fmt: skip


@pytest.mark.parametrize("spelling", FILE_TIMES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_says_to_recommend_what_it_says_to_prepare(
    tmp_path: Path, kind: str, spelling: str
) -> None:
    rng = np.random.default_rng(0)
    ms = START * 1000 + rng.integers(0, 40, 60) * rng.choice([1, 700, DAY * 1000], 60)
    table = pa.table(
        {"user": rng.permutation(np.repeat(np.arange(6), 10)),
         "item": rng.permutation(60), "time": FILE_TIMES[spelling](ms)}
    )  # fmt: skip
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(table, path)
    columns = {f"{name}_column": name for name in ("user", "item", "time")}
    dataset = prepared(tmp_path, f"{kind}:{path}", **columns)
    expected, ends = item_histories(dataset), dataset.offsets
    frame = read_history_file(path, no_report)
    # The same from Python.
    for one in (frame, table.to_pandas()):
        found = read(dataset, one)
        assert {user: items for user, (items, _) in found.items()} == expected
        assert dataset.times is not None
        for row, user in enumerate(dataset.users()["user"]):
            times = dataset.times[ends[row] : ends[row + 1]].tolist()
            assert found[user][1] == times


REFUSED: dict[str, tuple[list, str]] = {
    "dates": ([20240131, 20240201, 20240202], "look like dates written as"),
    "text of dates": (["20240131", "20240201"], "look like dates written as"),
    "moments": ([20240501123000, 20240501123001], "written as YYYYmmddHHMMSS"),
    "mixed units": ([START * 1000, START * 10**9], "no other unit puts them between"),
    "no times": (["soon", "later"], "column 'time' is 'soon' in row 1, wanted numbers"),
    "one none": ([str(START), "soon"], "column 'time' is 'soon' in row 2, wanted"),
    "infinite": ([START, float("inf")], "column 'time' is 'inf' in row 2, wanted"),
    "too large": ([1.0, 1e300], "column 'time' is '1e\\+300' in row 2, wanted"),
    "empty": ([str(START), None, None], "is empty in 2 of 3 rows, first in row 2"),
    "not a number": ([START, float("nan")], "is empty in 1 of 2 rows, first in row 2"),
    "tokens": ([str(START), "NULL", "NaT"], "is 'NULL' in 2 of 3 rows, first in row 2"),
    "booleans": ([False, True], "column 'time' is bool"),
    "times of a day": ([dt.time(1), dt.time(2)], "column 'time' is time"),
    "lists": ([[START], [START]], "column 'time' is "),
    "bytes": ([b"1", b"2"], "column 'time' is binary"),
}
"""Columns of times, and what both commands say of them."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_prepare_refuses_is_refused(
    tmp_path: Path, dataset: Dataset, case: str
) -> None:
    times, said = REFUSED[case]
    ids = list(range(len(times)))
    table = pa.table({"user": ids, "item": ids, "time": times})
    path = tmp_path / "in.parquet"
    pq.write_table(table, path)
    columns = {f"{name}_column": name for name in ("user", "item", "time")}
    with pytest.raises(UserError, match=said):
        prepared(tmp_path, f"parquet:{path}", **columns)
    frame = table.to_pandas()
    for given_, file in ((read_history_file(path, no_report), path), (frame, None)):
        with pytest.raises(UserError, match=said) as error:
            read_histories(dataset, given_, "skip", no_report, file)
        assert str(error.value).startswith(f"{file or 'histories'}: column 'time' ")
        assert "--" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (np.array([1, 2j]), "complex128"),
        (pd.to_timedelta([1, 2]), r"timedelta64\[ns\]"),
        (pd.period_range("2020", periods=2), r"period\[D\]"),
        (pd.interval_range(0, 2), r"interval\[int64, right\]"),
        ([True, False], "bool"),
        (np.array([True, 1], object), "'True' in row 1"),
    ],
)
def test_columns_of_other_types_are_refused_by_their_names(
    dataset: Dataset, times: Any, kind: str
) -> None:
    frame = pd.DataFrame({"user": [1, 2], "item": ["item 1"] * 2, "time": times})
    with pytest.raises(UserError, match=f"^histories: column 'time' is {kind}"):
        read_histories(dataset, frame, "refuse", no_report)


@pytest.mark.parametrize(
    ("times", "said", "seconds"),
    [
        ([19_000, 19_001], "taken as days: as seconds", [19_000 * DAY, 19_001 * DAY]),
        ([45413.5, 45414.5], "warning: .* if they are ranks, leave", [45413, 45414]),
        ([0, 1], "warning: .* if they are ranks, leave the column out", [0, 1]),
        ([START, START * 1000], "warning: .* all of them in one unit", None),
    ],
)  # fmt: skip
def test_what_prepare_says_of_times_is_reported(
    dataset: Dataset, times: list, said: str, seconds: list[int] | None
) -> None:
    frame = pd.DataFrame({"user": 1, "item": ["item 1", "item 2"], "time": times})
    for column in (times, [str(time) for time in times]):
        messages: list[str] = []
        found, _ = read_histories(
            dataset, frame.assign(time=column), "refuse", messages.append
        )
        assert len(messages) == 1 and pd.Series(messages).str.contains(said).all()
        assert np.asarray(found[0].times).tolist() == (seconds or times)


@pytest.mark.parametrize(("unit", "length"), [("days", DAY), ("hours", 3600)])
def test_small_numbers_are_in_the_unit_of_the_dataset(
    tmp_path: Path, unit: TimeUnit, length: int
) -> None:
    ids = list(range(3)) * 3
    table = pa.table({"user": sorted(ids), "item": ids, "time": [*range(5, 14)]})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {f"{name}_column": name for name in ("user", "item", "time")}
    source = f"parquet:{tmp_path / 'a.parquet'}"
    dataset = prepared(tmp_path, source, time_unit=unit, **columns)
    messages: list[str] = []
    found, _ = read_histories(dataset, table, "refuse", messages.append)
    assert np.asarray(found[1].times).tolist() == [8 * length, 9 * length, 10 * length]
    assert (
        len(messages) == 1
        and f"taken as {unit}: the dataset was made of" in messages[0]
    )


def test_numbers_among_the_times_of_the_dataset_are_seconds_like_them(
    dataset: Dataset,
) -> None:
    assert dataset.times is not None and dataset.times.max() < 30_000_000
    times = dataset.times[:2].tolist()
    frame = pd.DataFrame({"user": 1, "item": ["item 1", "item 2"], "time": times})
    found, _ = read_histories(dataset, frame, "refuse", no_report)
    assert np.asarray(found[0].times).tolist() == sorted(times)
