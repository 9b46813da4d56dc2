"""Histories in, recommendations out: what may be given, and what may not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import evaluate, recommend
from eqids.config import UserError
from eqids.data import Dataset
from eqids.inference.recommender import Recommender

SECONDS = [1_700_000_030, 1_700_000_010, 1_700_000_020, 1_700_000_040]
SPELLED = [f"2023-11-14T22:13:{s:02d}Z" for s in (50, 30, 40)] + ["2023-11-14 22:14:00"]


def histories(times: Any) -> pd.DataFrame:
    """Two users whose events are not in order."""
    items = [f"item {i}" for i in (1, 4, 2, 5)]
    return pd.DataFrame({"user": [7, 3, 7, 3], "item": items, "time": times})


def test_times_may_be_seconds_timestamps_or_text(finished: Path) -> None:
    recommender = eqids.load(finished)
    expected = recommender.recommend(histories(SECONDS), k=5)
    stamps = pd.to_datetime(SECONDS, unit="s")
    fractions = [seconds + 0.75 for seconds in SECONDS]
    texts = [str(seconds) for seconds in SECONDS]
    zoned = [
        f"2023-11-14T23:{13 + (s > 59)}:{s % 60:02d}+01:00" for s in (50, 30, 40, 60)
    ]
    for times in (stamps, stamps.tz_localize("UTC"), fractions, texts, SPELLED, zoned):
        found = recommender.recommend(histories(times), k=5)
        pd.testing.assert_frame_equal(found, expected)


def test_a_csv_file_says_the_same_as_a_parquet_file(
    finished: Path, tmp_path: Path
) -> None:
    histories(SECONDS).to_parquet(tmp_path / "in.parquet")
    histories(SPELLED).to_csv(tmp_path / "in.csv", index=False)
    tables = []
    for name in ("in.parquet", "in.csv"):
        out = tmp_path / f"{name}.pq"
        recommend.main(
            ["--checkpoint", str(finished), "--input", str(tmp_path / name),
             "--output", str(out), "--k", "4"]
        )  # fmt: skip
        tables.append(pd.read_parquet(out))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["user"].tolist() == [3] * 4 + [7] * 4


def test_recommendations_are_written_as_the_file_is_called(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    histories(SECONDS).to_parquet(tmp_path / "in.parquet")
    given = ["--checkpoint", str(finished), "--input", str(tmp_path / "in.parquet")]
    given += ["--k", "4", "--output"]
    recommend.main([*given, str(tmp_path / "out.csv")])
    recommend.main([*given, str(tmp_path / "out.parquet")])
    found = pd.read_csv(tmp_path / "out.csv")
    expected = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)
    for path in (tmp_path / "nowhere" / "out.csv", tmp_path):
        said = refused(recommend.main, [*given, str(path)], capsys)
        assert said.startswith(f"error: --output {path} ") and "partial" not in said


def test_results_that_cannot_be_written_are_named_first(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("eqids.inference.open.open_model", None)
    path = tmp_path / "nowhere" / "r.json"
    flags = ["--checkpoint", str(finished), "--json", str(path)]
    said = refused(evaluate.main, flags, capsys)
    assert said.startswith(f"error: --json {path} cannot be written: {path.parent} is")


@pytest.mark.parametrize("k", [3.5, "3", 0, None])
def test_k_is_a_whole_number(k: Any, finished: Path) -> None:
    # Users have no hook that checks types: what it wraps is what they call.
    recommend = Recommender.recommend.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"k is {k!r}, wanted a whole number"):
        recommend(eqids.load(finished), [["item 1"]], k=k)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user,item,time\na,item 1,soon\n", "column 'time' is 'soon' in row 1"),
        (
            "user,item\na,item 1\n,item 2\n",
            "column 'user' is empty in 1 of 2 rows, first in row 2",
        ),
        ("user,item\n", "no rows"),
        ("", "in.csv is empty"),
        ('user,item\na,"item 1\n', "in.csv cannot be read"),
    ],
)
def test_a_csv_file_that_is_wrong_is_named(
    text: str, said: str, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "in.csv"
    path.write_text(text)
    flags = ["--checkpoint", str(finished), "--input", str(path)]
    flags += ["--output", str(tmp_path / "out.parquet")]
    found = refused(recommend.main, flags, capsys)
    assert said in found and str(path) in found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv"]


def test_ids_where_lists_are_wanted_are_refused(finished: Path) -> None:
    recommender = eqids.load(finished)
    one = [["item 1"]]
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("histories is 'item 1', wanted a list of lists", "item 1", {}),
        (r"histories\[0\] is 'item 1', wanted a list of item ids", ["item 1"], {}),
        ("allow is 'item 1', wanted a list of item ids", one, {"allow": "item 1"}),
        ("deny is 'item 1', wanted a list of item ids", one, {"deny": "item 1"}),
    ]
    for said, given, lists in cases:
        with pytest.raises(UserError, match=said):
            recommender.recommend(given, k=3, **lists)


def test_many_users_are_asked_in_chunks_that_change_nothing(
    dataset: Dataset, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = eqids.load(finished)
    names = dataset.items().set_index("slot")["item"]
    lists = [names.loc[dataset.history(user)].tolist() for user in range(11)]
    together = recommender.recommend(lists, k=3)
    monkeypatch.setattr("eqids.inference.recommender._CHUNK", 4)
    apart = recommender.recommend(lists, k=3)
    for name in ("user", "rank", "item"):
        assert together[name].tolist() == apart[name].tolist()
    np.testing.assert_allclose(together["probability"], apart["probability"], rtol=1e-5)
    for user, items in enumerate(lists):
        assert not set(together["item"][together["user"] == user]) & set(items)
