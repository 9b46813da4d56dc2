"""Groups of users in a report: every user is in one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eqids.data import Dataset
from eqids.fit.evaluation import targets_of
from eqids.reporting.slices import NO_VALUE, divisions, unit_of

pytest_plugins = ["page_fixtures"]


def test_users_without_a_value_are_a_group(films: Dataset, tmp_path: Path) -> None:
    users, _ = targets_of(films, "test")
    names = films.users()["user"][users].tolist()
    plans = np.resize(["paid", "", "trial"], len(names)).astype(object)
    absent = {names[0], names[4]}
    frame = pd.DataFrame({"user": names, "plan": plans, "joined": "2022"})
    frame = frame[~frame["user"].isin(absent)]
    frame.to_csv(tmp_path / "u.csv", index=False)
    frame["plan"] = frame["plan"].replace("", None)
    frame.to_parquet(tmp_path / "u.parquet")
    none = np.array([n in absent for n in names]) | (plans == "")
    for file in ("u.csv", "u.parquet"):
        groups = {one.title: one.groups for one in
                  divisions(films, "test", tmp_path / file)}  # fmt: skip
        assert [one.name for one in groups["plan"]] == ["paid", "trial", NO_VALUE]
        np.testing.assert_array_equal(groups["plan"][-1].members, none)
        assert [one.name for one in groups["joined"]] == ["2022", NO_VALUE]


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)],
)
def test_gaps_of_nothing_are_named_after_the_unit_of_times(
    unit: str, seconds: int
) -> None:
    times = seconds * (19_000 + np.array([0, 1, 5, 7, 7, 11, 30]))
    assert unit_of(times) == unit
