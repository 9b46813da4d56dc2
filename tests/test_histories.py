"""Histories that are empty, mixed, without rows or with unknown items."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import recommend
from eqids.config import UserError
from eqids.data import Dataset
from eqids.inference.histories import read_histories
from eqids.inference.recommender import History, Recommender

COLUMNS = ["user", "rank", "item", "title", "probability"]


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    """One for all tests here."""
    return eqids.load(finished)


def no_report(message: str) -> None:
    """Fails where nothing should be said."""
    raise AssertionError(message)


def popular(dataset: Dataset, k: int, never: set[int]) -> list[tuple[str, float]]:
    """Item and share of the training events, counted event by event."""
    counts = dict.fromkeys(np.flatnonzero(dataset.item_valid).tolist(), 0)
    for user, length in enumerate(dataset.train_length):
        for slot in dataset.history(user)[:length].tolist():
            counts[slot] += 1
    order = sorted(counts, key=lambda slot: (-counts[slot], slot))
    names = dataset.items().set_index("slot")["item"]
    total = sum(counts.values())
    kept = [slot for slot in order if slot not in never][:k]
    return [(names.loc[slot], counts[slot] / total) for slot in kept]


# Empty histories


@pytest.mark.parametrize("empty", [[[]], [np.array([])], [pd.Series([], dtype=str)]])
def test_an_empty_history_is_answered_by_popularity(
    empty: Any, dataset: Dataset, recommender: Recommender
) -> None:
    found = recommender.recommend(empty, k=7)
    expected = popular(dataset, 7, set())
    assert found["item"].tolist() == [item for item, _ in expected]
    np.testing.assert_allclose(found["probability"], [p for _, p in expected])
    assert found.columns.tolist() == COLUMNS and found["rank"].tolist() == [
        *range(1, 8)
    ]
    assert found.attrs["popularity"] == [0]
    denied = [item for item, _ in expected[:2]]
    found = recommender.recommend(empty, k=5, deny=denied)
    assert found["item"].tolist() == [item for item, _ in expected[2:]]
    everything = recommender.recommend(empty, k=10**6)
    assert len(everything) == dataset.info.num_items
    assert everything["probability"].sum() == pytest.approx(1)


def test_empty_histories_among_others_change_nothing(
    dataset: Dataset, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = dataset.items().set_index("slot")["item"]
    lists = [names.loc[dataset.history(user)].tolist() for user in range(9)]
    expected = recommender.recommend(lists, k=3)
    nothing: list[str] = []
    mixed = [nothing, *lists[:4], nothing, nothing, *lists[4:], nothing]
    for rows in (64, 4, 1):
        monkeypatch.setattr("eqids.inference.recommender._ROWS", rows)
        found = recommender.recommend(mixed, k=3)
        assert found.attrs["popularity"] == [0, 5, 6, 12]
        kept = found[~found["user"].isin([0, 5, 6, 12])]
        assert kept["item"].tolist() == expected["item"].tolist()
        np.testing.assert_allclose(
            kept["probability"], expected["probability"], rtol=1e-5
        )
        assert found["user"].tolist() == np.repeat(range(13), 3).tolist()


@pytest.mark.parametrize("history", ["", ",", " , "])
def test_the_command_says_that_an_answer_is_popularity(
    history: str, dataset: Dataset, finished: Path, capsys: CaptureFixture[str]
) -> None:
    recommend.main(["--checkpoint", str(finished), "--history", history, "--k", "3"])
    said = capsys.readouterr()
    items = [line.split("  ")[-2] for line in said.out.splitlines()]
    assert items == [item for item, _ in popular(dataset, 3, set())]
    assert "the history is empty: these are the most popular items" in said.err


# Mixed


def test_users_lists_and_tables_mix(dataset: Dataset, recommender: Recommender) -> None:
    names = dataset.items().set_index("slot")["item"]
    one = recommender.of_user("user 1")
    two = names.loc[dataset.history(2)].tolist()
    of_three = slice(dataset.offsets[3], dataset.offsets[4])
    three = pd.DataFrame(
        {"user": "three", "item": names.loc[dataset.history(3)].to_numpy(),
         "time": dataset.times[of_three]}
    )  # fmt: skip
    found = recommender.recommend([one, two, three, np.array(two)], k=4)
    assert (
        found["user"].tolist()
        == np.repeat(np.array(["user 1", 1, "three", 3], object), 4).tolist()
    )
    apart = [recommender.recommend(x, k=4) for x in ([one], [two], three, [two])]
    assert found["item"].tolist() == pd.concat(apart)["item"].tolist()
    alone = recommender.recommend(one, k=4)
    pd.testing.assert_frame_equal(alone, apart[0])
    times = dataset.times[dataset.offsets[1] : dataset.offsets[2]]
    frame = pd.DataFrame(
        {"user": "user 1", "item": names.loc[dataset.history(1)].to_numpy(),
         "time": times}
    )  # fmt: skip
    pd.testing.assert_frame_equal(recommender.recommend(frame, k=4), alone)


@pytest.mark.parametrize(
    "users",
    [[7, 9], ["x", "y"], [1.5, 2.5], pd.to_datetime(["2024-05-01", "2024-06-01"])],
)
def test_users_keep_their_type_and_results_can_be_written(
    users: Any, recommender: Recommender, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"user": users, "item": ["item 1", "x"]})
    found = recommender.recommend(frame, k=2, unknown="skip")
    assert found["user"].tolist() == pd.Series(users).repeat(2).tolist()
    assert found.attrs["popularity"] == [pd.Series(users).iloc[1]]
    if not isinstance(users, pd.DatetimeIndex):
        found.to_parquet(tmp_path / "o.parquet")
        again = pd.read_parquet(tmp_path / "o.parquet")
        pd.testing.assert_frame_equal(again, found)
        assert again.attrs == found.attrs


def test_a_history_of_another_dataset_is_refused(recommender: Recommender) -> None:
    with pytest.raises(UserError, match=r"histories\[0\] names slot 99999, wanted 0"):
        recommender.recommend([History("a", np.array([99_999]))])


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9),
                  st.integers(1_700_000_000, 1_700_000_005)),
        min_size=1, max_size=40,
    ),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_a_table_holds_each_users_events_in_order(
    recommender: Recommender, rows: list[tuple[str, int, int]], timed: bool, skip: bool
) -> None:
    """Users by their first event, equal times in the order of the rows."""
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    # Items 7 to 9 are in no catalog.
    frame["item"] = [f"item {i}" if i < 7 else f"gone {i}" for i in frame["item"]]
    frame = frame if timed else frame.drop(columns="time")
    order = sorted(range(len(rows)), key=lambda i: rows[i][2] if timed else i)
    expected: dict[str, list[int]] = {}
    for i in order:
        expected.setdefault(rows[i][0], []).append(i)
    unknown = [i for i, row in enumerate(rows) if row[1] >= 7]
    dataset = recommender.dataset
    if unknown and not skip:
        with pytest.raises(UserError) as error:
            read_histories(dataset, frame, "refuse", no_report)
        said = str(error.value)
        first = rows[unknown[0]][1]
        assert said.startswith(f"row {unknown[0] + 1} of the histories: item 'gone")
        assert f"'gone {first}' is not in the catalog of {dataset.path}" in said
        items = len({rows[i][1] for i in unknown})
        many = f"{len(unknown)} of {len(rows)} events name {items} items"
        assert (many in said) == (len(unknown) > 1)
        return
    found, left_out = read_histories(dataset, frame, "skip", no_report)
    assert left_out == len(unknown)
    assert [one.user for one in found] == list(expected)
    for one, events in zip(found, expected.values(), strict=True):
        kept = [i for i in events if i not in unknown]
        wanted = dataset.slot_of([f"item {rows[i][1]}" for i in kept])
        np.testing.assert_array_equal(one.slots, wanted)
        if timed:
            assert one.times is not None
            assert one.times.tolist() == [rows[i][2] for i in kept]
        else:
            assert one.times is None


# Unknown items


def test_messages_name_the_list_and_index_of_an_unknown_item(
    recommender: Recommender,
) -> None:
    lists = [["item 1"], ["item 2", "x", "item 3", "y"], ["x"]]
    with pytest.raises(UserError) as error:
        recommender.recommend(lists)
    said = str(error.value)
    assert said.startswith("histories[1][1]: item 'x' is not in the catalog of ")
    assert "; 3 of 6 events name 2 items that it does not hold; " in said
    assert "--unknown skip" in said and "unknown='skip'" in said
    found = recommender.recommend(lists, k=3, unknown="skip")
    assert found.attrs["unknown"] == {"histories": 3}
    assert found.attrs["popularity"] == [2]
    kept = recommender.recommend([["item 1"], ["item 2", "item 3"], []], k=3)
    pd.testing.assert_frame_equal(found, kept)
    assert kept.attrs["unknown"] == {"histories": 0}
    with pytest.raises(UserError, match="unknown is 'drop', wanted 'refuse' or 'skip'"):
        # Users have no hook that checks types: what it wraps is what they call.
        Recommender.recommend.__wrapped__(  # type: ignore[attr-defined]
            recommender, lists, unknown="drop"
        )


def test_stale_ids_are_left_out_of_deny_and_reported_in_allow(
    recommender: Recommender,
) -> None:
    histories = [["item 1"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = recommender.recommend(histories, k=99, deny=["x", "item 9", None, 3.5])
    expected = recommender.recommend(histories, k=99, deny=["item 9"])
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs["unknown"] == {"histories": 0, "deny": 3}
    with pytest.warns(UserWarning, match="2 of 3 ids in allow are not in the catalog "
                      "of .*, the first is 'x'"):  # fmt: skip
        found = recommender.recommend(histories, allow=["x", "item 2", "y"])
    assert found["item"].tolist() == ["item 2"]
    assert found.attrs["unknown"] == {"histories": 0, "allow": 2}


@pytest.mark.parametrize("allow", [[], ["x", "y"]])
@pytest.mark.filterwarnings("ignore:.*ids in allow")
def test_an_allow_list_of_which_nothing_is_left_is_refused(
    allow: list[str], recommender: Recommender
) -> None:
    with pytest.raises(UserError, match="allow names no item that .* can recommend"):
        recommender.recommend([["item 1"]], allow=allow)


def test_the_command_leaves_out_unknown_items_and_says_how_many(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    frame = pd.DataFrame(
        {"user": list("aabbc"), "item": ["item 1", "x", "x", "y", "x"]}
    )
    frame.to_csv(tmp_path / "in.csv", index=False)
    flags = ["--checkpoint", str(finished), "--input", str(tmp_path / "in.csv"), "--k"]
    flags += ["3", "--output", str(tmp_path / "out.csv")]
    said = refused(recommend.main, flags, capsys)
    assert f"{tmp_path / 'in.csv'}: row 2 of the histories: item 'x'" in said
    assert "4 of 5 events name 2 items" in said and said.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()
    recommend.main([*flags, "--unknown", "skip"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("9 recommendations for 3 users in ")
    assert "4 events with items that the catalog does not hold left out" in last
    assert (
        "2 users without history got the most popular items, the first is 'b'" in last
    )
    found = pd.read_csv(tmp_path / "out.csv")
    expected = eqids.load(finished).recommend([["item 1"], [], []], k=3)
    assert found.columns.tolist() == COLUMNS
    assert found["item"].tolist() == expected["item"].tolist()


@pytest.mark.parametrize(("unit", "per_second"),
                         [("milliseconds", 10**3), ("microseconds", 10**6),
                          ("nanoseconds", 10**9)])  # fmt: skip
def test_times_in_other_units_are_taken_for_what_they_are(
    unit: str, per_second: int, recommender: Recommender
) -> None:
    seconds = np.array([1_600_000_000, 1_600_000_900, 1_600_090_000])
    frame = pd.DataFrame({"user": 1, "item": [f"item {i}" for i in range(3)]})
    expected = recommender.recommend(frame.assign(time=seconds))
    for times in (seconds * per_second, (seconds * per_second).astype(str)):
        with pytest.warns(UserWarning, match=f"'time' .* are taken as {unit}"):
            found = recommender.recommend(frame.assign(time=times))
        pd.testing.assert_frame_equal(found, expected)
    assert not expected.equals(recommender.recommend(frame))
