"""Histories of a whole file, sorted by user outside memory, and read in parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from pytest import MonkeyPatch

from eqids.config import UserError
from eqids.data import Dataset
from eqids.data.raw.history_files import read_history_file
from eqids.data.raw.sorted_histories import sort_histories
from eqids.inference.bulk import history_parts
from eqids.inference.bulk.history_parts import part_bounds, read_part
from eqids.inference.histories import read_histories

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "7", "07"]),
        st.integers(0, 3),
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=12,
)
TIMES: Mapping[str, Any] = {
    "none": None,
    "seconds": lambda at: 1_500_000_000 + at % 5,
    "small": lambda at: 1_000_000 + at % 4 / 2,
    "milliseconds": lambda at: 1_500_000_000_000 + at,
    "text": lambda at: f"2024-05-01 12:00:{at % 60:02}+02:00",
    "timestamp": lambda at: pd.Timestamp("2020-01-01") + pd.Timedelta(at, "ms"),
}


@given(times=st.sampled_from([*TIMES]), rows=ROWS, csv=st.booleans())
@settings(max_examples=7)
def test_sorted_histories_are_those_of_memory(
    dataset: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
    times: str,
    rows: Sequence[tuple[str, int, int]],
    csv: bool,
) -> None:
    folder = tmp_path_factory.mktemp("sorted")
    frame = pd.DataFrame(
        {"user": [row[0] for row in rows], "item": [f"item {row[1]}" for row in rows]}
    )
    if TIMES[times] is not None:
        frame["time"] = [TIMES[times](row[2]) for row in rows]
    path = folder / ("in.csv" if csv else "in.parquet")
    frame.to_csv(path, index=False) if csv else frame.to_parquet(path)
    said: tuple[list[str], list[str]] = ([], [])
    read = read_history_file(path, said[0].append)
    wanted, left_out = read_histories(dataset, read, "skip", said[0].append, path)
    target = folder / "sorted.parquet"
    num_unknown = sort_histories(
        path, target, dataset, said[1].append, skip_unknown=True, request_time=False
    )
    bounds = part_bounds(target, 2)
    parts = [read_part(target, bounds, n) for n in range(len(bounds.rows) - 1)]
    found = {
        part.users[one.user].as_py(): one for part in parts for one in part.histories
    }
    assert num_unknown == left_out and said[0] == said[1]
    assert list(found) == sorted(one.user for one in wanted)
    for one in wanted:
        mine = found[one.user]
        assert mine.slots.tolist() == one.slots.tolist()
        assert (mine.times is None) == (one.times is None)
        if one.times is not None and mine.times is not None:
            assert mine.times.tolist() == one.times.tolist()


def test_request_times_are_read_and_checked(dataset: Dataset, tmp_path: Path) -> None:
    columns = {
        "user": ["b", "a", "b"],
        "item": ["item 1", "item 2", "item 99"],
        "time": [1_500_000_000, 1_500_000_005, 1_500_000_003],
        "request_time": [1_500_000_007, 1_500_000_005, 1_500_000_007],
    }
    path, target = tmp_path / "in.parquet", tmp_path / "sorted.parquet"

    def read(request_time: bool = True) -> list[int | None]:
        pq.write_table(pa.table(columns), path)
        sort_histories(
            path, target, dataset, print, skip_unknown=True, request_time=request_time
        )
        part = read_part(target, part_bounds(target, 9), 0)
        return [one.request_time for one in part.histories]

    assert read() == [1_500_000_005, 1_500_000_007]
    assert read(request_time=False) == [None, None]
    columns["request_time"][2] += 1
    with pytest.raises(UserError, match="'request_time' has 2 values for user 'b'"):
        read()
    columns["request_time"][0] = columns["request_time"][2] = 1_500_000_002
    with pytest.raises(UserError, match="'b' is 1500000002 and the last event is at"):
        read()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    users_of_part=st.integers(1, 5),
    most_events=st.integers(1, 20),
    group=st.integers(1, 12),
)
@settings(max_examples=40)
def test_parts_hold_whole_users(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    users_of_part: int,
    most_events: int,
    group: int,
) -> None:
    file = tmp_path_factory.mktemp("parts") / "sorted.parquet"
    users = np.repeat(np.arange(len(sizes)) * 3, sizes)
    table = {"user": users, "slot": np.arange(len(users), dtype=np.int32)}
    pq.write_table(pa.table(table), file, row_group_size=group)
    with MonkeyPatch.context() as patch:
        patch.setattr(history_parts, "_MOST_EVENTS", most_events)
        bounds = part_bounds(file, users_of_part)
    read = [read_part(file, bounds, part) for part in range(len(bounds.rows) - 1)]
    assert [user for part in read for user in part.users.to_pylist()] == [
        *range(0, len(sizes) * 3, 3)
    ]
    histories = [one.slots for part in read for one in part.histories]
    assert [len(slots) for slots in histories] == sizes
    assert np.concatenate(histories).tolist() == list(range(len(users)))
    for number, part in enumerate(read):
        assert len(part.users) == bounds.users[number + 1] - bounds.users[number]
        lengths = [len(one.slots) for one in part.histories]
        assert len(lengths) <= users_of_part and sum(lengths[:-1]) < most_events
        if number < len(read) - 1:
            assert len(lengths) == users_of_part or sum(lengths) >= most_events
