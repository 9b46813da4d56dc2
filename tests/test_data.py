"""Preparing data, against plain Python and numpy, on files as strangers have them."""

import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from plays import HEADER, item_histories, prepared, write_csv

from eqids.cli import run
from eqids.config import UserError
from eqids.data.raw.fetch import fetch_movielens
from eqids.data.raw.splits import leave_one_out, temporal
from eqids.prepare import main

# Ibis 12 calls what DuckDB 2 has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:fetch_arrow_table:DeprecationWarning",
)


def _expected(rows: Sequence[tuple[Any, Any, int]]) -> dict:
    """The rule in plain Python: no second copies, stable order of time."""
    unique = list(dict.fromkeys(rows))
    ordered = sorted(unique, key=lambda row: row[2])
    users = sorted({row[0] for row in rows})
    return {u: [row[1] for row in ordered if row[0] == u] for u in users}


def _core(rows: Sequence[tuple], least_user: int, least_item: int) -> set[tuple]:
    left = set(rows)
    while True:
        users = Counter(row[0] for row in left)
        items = Counter(row[1] for row in left)
        kept = {
            row
            for row in left
            if users[row[0]] >= least_user and items[row[1]] >= least_item
        }
        if kept == left:
            return left
        left = kept


def test_a_strangerswrite_csv(tmp_path: Path) -> None:
    rows = [
        ("zoë", "x-9", 50), ("al", "a, b", 7), ("zoë", "007", 10), ("al", "x-9", 3),
        ("al", "a, b", 7), ("zoë", "x-9", 20), ("al", "007", 9), ("zoë", "a, b", 30),
        ("bo", "new", 1), ("al", "x-9", 3),
    ]  # fmt: skip
    titles = [
        ("x-9", 'The "Nine"'),
        ("a, b", ""),
        ("unused", "None"),
        ("x-9", 'The "Nine"'),
    ]
    items = write_csv(tmp_path / "items.csv", titles, ["item_id", "title"])
    source = f"csv:{write_csv(tmp_path / 'plays.csv', rows)}"
    dataset = prepared(tmp_path, source, items=items)
    assert item_histories(dataset) == {
        "al": ["x-9", "a, b", "007"],
        "bo": ["new"],
        "zoë": ["007", "x-9", "a, b", "x-9"],
    }
    assert dataset.info.counts.rows_read == 10
    assert dataset.info.counts.duplicates_dropped == 2
    assert dataset.info.counts.short_users == 1
    assert dataset.times is not None
    assert dataset.times.tolist() == [3, 7, 9, 1, 10, 20, 30, 50]
    assert dataset.train_length.tolist() == [1, 1, 2]
    assert dataset.valid_at.tolist() == [1, -1, 2]
    assert dataset.test_at.tolist() == [2, -1, 3]
    table = dataset.items().set_index("item")
    assert table["title"].to_dict() == {
        "x-9": 'The "Nine"', "a, b": "a, b", "007": "007", "new": "new",
    }  # fmt: skip
    assert table["text"].to_dict() == {
        "x-9": 'The "Nine"', "a, b": "", "007": "", "new": "",
    }  # fmt: skip
    assert table["count"].to_dict() == {"x-9": 2, "a, b": 0, "007": 1, "new": 1}
    assert dataset.slot_of(["007"]).tolist() == [table["slot"]["007"]]


events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(10, 14), st.integers(0, 5)),
    min_size=12,
    max_size=40,
)


@settings(max_examples=15, deadline=None)
@given(events)
def test_histories_are_what_plain_python_gives(rows: list[tuple]) -> None:
    rows += [(9, 14, 90), (9, 13, 90), (9, 12, 91), (9, 11, 91), (9, 12, 92)]
    with tempfile.TemporaryDirectory() as folder:
        source = f"csv:{write_csv(Path(folder) / 'a.csv', rows)}"
        dataset = prepared(Path(folder), source)
        expected = _expected(rows)
        if dataset.info.protocol.ties == "file_order":
            assert item_histories(dataset) == expected
        else:
            found = {u: sorted(items) for u, items in item_histories(dataset).items()}
            assert found == {u: sorted(items) for u, items in expected.items()}
        table = dataset.items().set_index("item")
        trained = Counter(
            item
            for items in item_histories(dataset).values()
            for item in (items[:-2] if len(items) > 2 else items)
        )
        assert table["count"].to_dict() == {i: trained[i] for i in table.index}


@settings(max_examples=15, deadline=None)
@given(events, st.integers(1, 4), st.integers(1, 4))
def test_rare_users_and_items_go_until_none_is_left(
    rows: list[tuple], least_user: int, least_item: int
) -> None:
    rows = [(u, i, n) for n, (u, i, _) in enumerate(rows)]
    expected = _core(rows, least_user, least_item)
    least = {
        "min_user_interactions": least_user, "min_item_interactions": least_item,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source = f"csv:{write_csv(Path(folder) / 'a.csv', rows)}"
        if not any(n > 2 for n in Counter(row[0] for row in expected).values()):
            with pytest.raises(UserError, match="no user"):
                prepared(Path(folder), source, **least)
            return
        dataset = prepared(Path(folder), source, **least)
        ordered = sorted(expected, key=lambda row: row[2])
        assert item_histories(dataset) == _expected(ordered)
        counts = dataset.info.counts
        assert counts.rare_dropped == len(rows) - len(expected)
        for column, dropped in enumerate((counts.users_dropped, counts.items_dropped)):
            before, after = ({r[column] for r in x} for x in (rows, expected))
            assert dropped == len(before) - len(after)


def test_low_ratings_are_dropped_before_duplicates(tmp_path: Path) -> None:
    rows = [
        (1, 5, 1, "2"), (1, 5, 1, "4.5"), (1, 6, 2, "4"), (1, 7, 3, "5"),
        (1, 8, 4, "3.9"),
    ]  # fmt: skip
    path = write_csv(tmp_path / "a.csv", rows, [*HEADER, "stars"])
    dataset = prepared(tmp_path, f"csv:{path}", rating_column="stars", min_rating=4.0)
    assert item_histories(dataset) == {1: [5, 6, 7]}
    assert dataset.info.counts.rated_lower == 2
    assert dataset.info.protocol.min_rating == 4.0


def _in_id_order() -> list[tuple[int, int, int]]:
    return [(u, i, 100) for u in range(40) for i in range(u % 3, 30, 2)]


def test_an_order_of_ids_is_not_taken_for_an_order_of_events(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", _in_id_order())
    said: list[str] = []
    dataset = prepared(tmp_path, f"csv:{path}", said=said)
    assert dataset.info.protocol.ties == "seeded_hash"
    assert sum("100% ascend by item" in sentence for sentence in said) == 1
    counts = dataset.info.counts
    assert counts.tied_neighbours == counts.ascending_ties == len(_in_id_order()) - 40
    histories = item_histories(dataset)
    expected = _expected(_in_id_order())
    assert {u: sorted(h) for u, h in histories.items()} == expected
    steps = np.concatenate([np.diff(h) > 0 for h in histories.values()])
    assert 0.4 < steps.mean() < 0.6
    # Users of the same items must differ, or the order itself could be learned.
    assert len({tuple(histories[u]) for u in range(0, 40, 3)}) == 14
    last = [h[-1] for h in histories.values()]
    assert 0.3 < np.mean(np.array(last) > 15) < 0.7


def test_the_hash_of_ties_follows_the_seed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", _in_id_order())
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        found.append(prepared(tmp_path / name, f"csv:{path}", seed=seed))
    assert (
        item_histories(found[0]) == item_histories(found[1]) != item_histories(found[2])
    )
    assert found[0].info.dataset_hash == found[1].info.dataset_hash
    assert found[0].info.files == found[1].info.files


def test_without_times_rows_keep_their_order_and_repeats_stay(tmp_path: Path) -> None:
    rows = [("a", 3), ("b", 1), ("a", 2), ("a", 3), ("a", 3), ("b", 1), ("b", 2)]
    path = write_csv(tmp_path / "a.csv", rows, HEADER[:2])
    dataset = prepared(tmp_path, f"csv:{path}", time_column=None)
    assert item_histories(dataset) == {"a": [3, 2, 3, 3], "b": [1, 1, 2]}
    assert dataset.times is None
    assert dataset.info.protocol.duplicates == "kept"


def test_targets_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate([np.sort(rng.integers(0, 100, n)) for n in lengths])
    last = leave_one_out(offsets)
    split = temporal(offsets, times)
    first, second = np.sort(times)[[int(len(times) * 0.8), int(len(times) * 0.9)]]
    assert (split.valid_from, split.test_from) == (first, second)
    for user, n in enumerate(lengths):
        assert last.train_length[user] == (n - 2 if n > 2 else n)
        assert last.test_at[user] == (n - 1 if n > 2 else -1)
        assert last.valid_at[user] == (n - 2 if n > 2 else -1)
        own = times[offsets[user] : offsets[user + 1]].tolist()
        after = [p for p, t in enumerate(own) if t >= first]
        tests = [p for p, t in enumerate(own) if t >= second]
        valid = after[0] if after and own[after[0]] < second else 0
        assert split.train_length[user] == sum(t < first for t in own)
        assert split.valid_at[user] == (valid or -1)
        assert split.test_at[user] == ((tests[0] if tests else 0) or -1)
    expected = np.concatenate([np.arange(n) < (n - 2 if n > 2 else n) for n in lengths])
    np.testing.assert_array_equal(last.in_training(offsets), expected)


def test_movielens_100k_as_its_file_says(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, "ml-100k")
    with zipfile.ZipFile(fetch_movielens("ml-100k", lambda _: None)) as archive:
        inter = [
            n for n in archive.namelist() if n.endswith(("ml-100k.inter", "u.data"))
        ]
        lines = archive.read(inter[0]).decode().splitlines()
    raw = np.array([x.split("\t") for x in lines if x[0].isdigit()], np.int64)
    user, item, time = raw[:, 0], raw[:, 1], raw[:, 3]
    assert len(raw) == 100_000
    info = dataset.info
    assert (info.num_users, info.num_items, info.num_events) == (943, 1682, 100_000)
    assert info.counts.duplicates_dropped == 0 and info.counts.short_users == 0
    assert info.counts.users_valid == info.counts.users_test == 943
    assert info.protocol.ties == "file_order"
    assert round(info.counts.tied_neighbours / 100_000, 3) == 0.506
    table = dataset.items()
    names = np.zeros(dataset.num_slots, np.int64)
    names[table["slot"]] = table["item"]
    trained: Counter = Counter()
    for row, name in enumerate(dataset.users()["user"]):
        own = np.flatnonzero(user == name)
        own = own[np.argsort(time[own], kind="stable")]
        np.testing.assert_array_equal(names[dataset.history(row)], item[own])
        assert dataset.test_at[row] == len(own) - 1
        assert dataset.valid_at[row] == len(own) - 2
        trained.update(item[own[:-2]].tolist())
    assert table.set_index("item")["count"].to_dict() == {
        i: trained[i] for i in range(1, 1683)
    }
    first = table.set_index("item").loc[1]
    assert first["title"] == "Toy Story (1995)"
    assert first["text"] == "Toy Story (1995), Animation, Children's, Comedy"
    assert info.clusters.consecutive_share > 0.2


@pytest.mark.long
def test_a_million_rows_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 1_000_000
    table = {
        "user_id": np.char.add("user-", rng.integers(0, 50_000, n).astype(str)),
        "item_id": rng.zipf(1.3, n) % 50_000,
        "timestamp": rng.integers(1_500_000_000, 1_700_000_000, n),
    }
    pq.write_table(pa.table(table), tmp_path / "plays.parquet")
    # Not getrusage, whose maximum a process inherits from the one that started it.
    script = (
        "import sys; from eqids.prepare import main; main(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(status.split('VmHWM:')[1].split()[0])"
    )
    flags = ["--source", f"parquet:{tmp_path / 'plays.parquet'}"]
    flags += ["--data_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout.split()[-1])
    assert kilobytes < 1_000_000


def test_the_command_says_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(u, (u * n) % 7, n) for u in range(5) for n in range(6)]
    path = write_csv(tmp_path / "a.csv", rows)
    flags = ["--source", f"csv:{path}", "--data_dir", str(tmp_path / "out")]
    main([*flags, "--num_clusters", "2", "--time_column", "None"])
    said = capsys.readouterr().out
    assert "users     5 (0 dropped as rare)" in said
    assert "events    30 of 30 rows" in said
    assert f"python -m eqids.train --data_dir {tmp_path / 'out'}" in said
    with pytest.raises(SystemExit) as left:
        run(lambda: main(flags))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {tmp_path / 'out'} exists already: add --overwrite to replace it, or "
        "choose another --data_dir\n"
    )


def test_titles_that_fit_no_item_are_a_mistake(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [(1, 5, 1), (1, 6, 2), (1, 7, 3), (2, 7, 4)])
    titles = write_csv(tmp_path / "t.csv", [("05", "A"), ("six", "B")],
                       ["item_id", "title"])  # fmt: skip
    with pytest.raises(UserError, match=r"t\.csv names none of the 3 items, .* is 5;"):
        prepared(tmp_path, f"csv:{path}", items=titles)
    write_csv(titles, [("5", "A"), ("9", "B"), ("7", "")], ["item_id", "title"])
    said: list[str] = []
    dataset = prepared(tmp_path, f"csv:{path}", items=titles, said=said)
    assert (
        f"warning: {titles} does not name 1 of 3 items; their ids are their titles"
        in (said)
    )
    assert dataset.items().set_index("item")["title"].to_dict() == {
        5: "A", 6: "6", 7: "7"
    }  # fmt: skip


def test_what_flags_contradict_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    for tokens in (["--seed", "-1"], ["--num_clusters", "0"]):
        with pytest.raises(SystemExit):
            run(lambda tokens=tokens: main(tokens))  # type: ignore[misc]
        name, value = tokens
        said = capsys.readouterr().err
        assert said.startswith(f"error: {name} is {value}, wanted ")
        assert said.count("\n") == 1


def test_the_command_keeps_tracebacks_for_our_own_faults() -> None:
    def fault() -> None:
        raise ValueError("a bug")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="a bug"):
        run(fault)
    with pytest.raises(SystemExit) as left:
        run(interrupted)
    assert left.value.code == 130
