"""Lists of ids and `History` objects of a wrong shape are refused."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import eqids
from eqids.config import UserError
from eqids.data import Dataset
from eqids.inference.histories import read_histories
from eqids.inference.id_lists import id_list
from eqids.inference.recommender import History, Recommender

# Users have no hook that checks types: what it wraps is what they call.
recommend = Recommender.recommend.__wrapped__  # type: ignore[attr-defined]

ID = "item 1"
OTHER_SHAPES: dict[str, tuple[Any, str]] = {
    "text": (ID, " is 'item 1', wanted a list of item ids"),
    "number": (5, " is 5, wanted a list of item ids"),
    "bytes": (b"item", " is b'item', wanted a list of item ids"),
    "frame": (pd.DataFrame({"item": [ID]}), " is a DataFrame, wanted a list of"),
    "arrow": (pa.table({"item": [ID]}), " is a Table, wanted a list of item ids"),
    "dict": ({ID: 1}, " is a dict, wanted a list of item ids"),
    "index": (pd.MultiIndex.from_tuples([(ID,)]), " is a MultiIndex, wanted a list"),
    "array": (np.array([[ID]]), r" is an array of shape \(1, 1\), wanted a list"),
    "one": (np.array(ID), r" is array\('item 1'.*\), wanted a list of item ids"),
    "zero": (np.array(5), r" is array\(5\), wanted a list of item ids"),
    "records": (pd.DataFrame({"item": [ID]}).to_records(), r"\[0\] is .*, wanted one"),
    "lists": ([ID, [ID]], r"\[1\] is a list, wanted one item id"),
    "tuples": ([(ID,)], r"\[0\] is a tuple, wanted one item id"),
    "sets": ([ID, ID, {ID}], r"\[2\] is a set, wanted one item id"),
    "dicts": ([{ID: 1}], r"\[0\] is a dict, wanted one item id"),
    "arrays": ([np.array([ID])], r"\[0\] is an array of shape \(1,\), wanted one"),
    "series": (pd.Series([[ID]]), r"\[0\] is a list, wanted one item id"),
    "rows": (pd.DataFrame({"item": [ID]}).itertuples(), r"\[0\] is a Pandas, wanted"),
}


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    """One for all tests here."""
    return eqids.load(finished)


@pytest.mark.parametrize("shape", OTHER_SHAPES)
@pytest.mark.parametrize("name", ["allow", "deny"])
def test_other_shapes_are_refused(
    recommender: Recommender, name: str, shape: str
) -> None:
    given, said = OTHER_SHAPES[shape]
    if shape == "rows":
        given = pd.DataFrame({"item": [ID]}).itertuples()
    with pytest.raises(UserError, match=f"^{name}{said}") as error:
        recommend(recommender, [[ID]], **{name: given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", sorted({*OTHER_SHAPES} - {"frame", "arrow", "rows"}))
def test_other_shapes_of_histories_are_refused_even_if_unknown_items_are_skipped(
    recommender: Recommender, shape: str
) -> None:
    given, said = OTHER_SHAPES[shape]
    with pytest.raises(UserError, match=rf"^histories\[1\]{said}"):
        recommend(recommender, [[ID], given], unknown="skip")


@pytest.mark.parametrize("given", [5, None, "x", {"a": [ID]}, np.array("5")])
def test_histories_that_are_no_list_are_refused(
    recommender: Recommender, given: Any
) -> None:
    with pytest.raises(UserError, match=r"^histories is .*, wanted a list of lists"):
        recommend(recommender, given)


@pytest.mark.parametrize(
    "ids",
    [
        ["a", "b"], ("a", "b"), {"a": 1, "b": 2}.keys(), iter(["a", "b"]),
        pd.Series(["a", "b"], index=[5, 5]), pd.Index(["a", "b"]),
        pd.Categorical(["a", "b"]), np.array(["a", "b"]), pa.array(["a", "b"]),
        np.array(["a", "b"], object), pa.chunked_array([["a"], ["b"]]),
    ],
)  # fmt: skip
def test_every_list_of_ids_is_taken(ids: Any) -> None:
    assert list(id_list("deny", ids)) == ["a", "b"]


def test_tables_of_arrow_are_taken_like_those_of_pandas(
    recommender: Recommender,
) -> None:
    frame = pd.DataFrame(
        {"user": ["b", "a", "b"], "item": ["item 1", "item 2", "item 3"],
         "time": pd.to_datetime(["2020-01-03", "2020-01-02", "2020-01-01"])}
    )  # fmt: skip
    expected = recommend(recommender, frame, k=3)
    table = pa.Table.from_pandas(frame)
    for given in (table, [table], table.to_batches()[0]):
        pd.testing.assert_frame_equal(recommend(recommender, given, k=3), expected)


# History


@pytest.mark.parametrize(
    ("slots", "times", "said"),
    [
        ([[1]], None, r"has slots of shape \(1, 1\) and type int64, wanted a list of"),
        (1, None, r"has slots of shape \(\) and type int64, wanted a list of integers"),
        ([1.5], None, "has slots of shape .* and type float64, wanted a list of integ"),
        (
            [True],
            None,
            "has slots of shape .* and type bool, wanted a list of integers",
        ),
        (["item 1"], None, "has slots .*; item ids are given as a list, not as a Hist"),
        ([-3], None, "names slot -3, wanted 0 to 29, a slot that holds an item"),
        ([10**12], None, "names slot 1000000000000, wanted 0 to 29"),
        (
            [0],
            [1, 2],
            r"has times of shape \(2,\) and type int64, wanted 1 finite unix",
        ),
        ([0], [[1]], r"has times of shape \(1, 1\) and type int64, wanted 1 finite"),
        ([0], [1j], "has times of shape .* and type complex128, wanted 1 finite unix"),
        ([0], [np.nan], "has times of shape .* and type float64, wanted 1 finite unix"),
        (
            [0],
            np.array(["2020-01-01"], "M8[s]"),
            "has times of shape .* and type datetime64",
        ),
    ],
)
def test_a_history_that_is_none_is_refused(
    dataset: Dataset, slots: Any, times: Any, said: str
) -> None:
    some = np.flatnonzero(dataset.item_valid)[:1]
    slots = some if slots == [0] else np.array(slots)
    history = History("a", slots, None if times is None else np.array(times))
    for unknown in ("refuse", "skip"):
        with pytest.raises(UserError, match=rf"^histories\[1\] {said}"):
            read_histories(dataset, [["item 1"], history], unknown, print)


def test_a_slot_without_an_item_is_refused(dataset: Dataset) -> None:
    (free, *_) = np.flatnonzero(~dataset.item_valid & ~dataset.retired)
    held = np.flatnonzero(dataset.item_valid)
    with pytest.raises(
        UserError, match=rf"^histories\[0\] names slot {free}, wanted 0"
    ):
        read_histories(dataset, History("a", np.array([*held, free])), "skip", print)
    found, _ = read_histories(dataset, History("a", held), "refuse", print)
    assert found[0].slots.tolist() == held.tolist()


# Warnings


def test_warnings_name_the_callers_line(recommender: Recommender) -> None:
    frame = pd.DataFrame({"user": 1, "item": [ID], "time": [0]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        recommend(recommender, [frame], allow=["x", "item 2"])
    own = [one for one in caught if one.category is UserWarning]
    assert [(one.filename, one.lineno) for one in own] == [(__file__, line)] * 2
    assert str(own[0].message).startswith("histories[0]: column 'time' holds numbers")
    assert str(own[1].message).startswith("1 of 2 ids in allow are not in the catalog")


def test_pandas_warns_of_nothing(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here: of chunks without rows, and of mixed times."""
    monkeypatch.setattr("eqids.inference.recommender._CHUNK", 1)
    found = recommend(recommender, [[ID], ["item 2"], []], allow=[ID], k=2)
    assert found["user"].tolist() == [1, 2] and set(found["item"]) == {ID}
    nothing = recommend(recommender, [[ID], [ID]], allow=[ID])
    assert len(nothing) == 0 and "probability" in nothing
    times = ["2024-05-01 12:00", "2024-05-02", pd.Timestamp("2024-05-01"), 1.5]
    mixed = pd.DataFrame({"user": 1, "item": [ID] * 4, "time": times})
    with pytest.raises(UserError, match="column 'time' is '1.5' in row 4"):
        recommend(recommender, mixed)
