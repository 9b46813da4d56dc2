"""`eqids.spark.recommend` returns the answers of `Recommender.recommend`."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import eqids
from eqids.config import UserError
from eqids.spark.recommend_frame import FrameJob, answers

SCORES = 1e-5
"""Batches of other sizes round probabilities differently."""


def events(seed: int = 0) -> pd.DataFrame:
    """Events of 12 users, two of whom have many, with ties in time."""
    rng = np.random.default_rng(seed)
    user = np.concatenate([np.repeat([3, 7], 40), rng.integers(10, 20, 50)])
    item = [f"item {i}" for i in rng.integers(1, 9, len(user))]
    time = 1_700_000_000 + rng.integers(0, 30, len(user))
    return pd.DataFrame({"user": user, "item": item, "time": time})


def as_sorted(found: pd.DataFrame) -> pd.DataFrame:
    return found.sort_values(["user", "rank"]).reset_index(drop=True)


def wanted(run: Path, k: int, **options: Any) -> pd.DataFrame:
    """What one call in this process returns, ties ordered by item."""
    frame = events().sort_values(["user", "time", "item"])
    return as_sorted(eqids.load(run).recommend(frame, k, **options))


def assert_answers(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Requires equal items, but those whose probabilities tie, and probabilities."""
    for name in ("user", "rank"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(
        found["probability"], expected["probability"], rtol=SCORES
    )
    other = found["item"] != expected["item"]
    near = np.isclose(expected["probability"].diff().fillna(1), 0, atol=SCORES)
    assert not (other & ~near & ~np.roll(near, -1)).any()


def test_batches_may_end_inside_a_history(finished: Path) -> None:
    """The function that Spark calls, with batches of 7 rows and an empty one."""
    job = FrameJob(
        str(finished), None, None, 4, True, None, ("item 2",), "refuse", None
    )
    rows = events().sort_values(["user", "time", "item"])
    batches = [rows.iloc[at : at + 7] for at in range(0, len(rows), 7)]
    found = pd.concat(answers(job, iter([*batches[:2], rows.iloc[:0], *batches[2:]])))
    assert_answers(as_sorted(found), wanted(finished, 4, deny=["item 2"]))
    assert not (found["item"] == "item 2").any()
    assert list(answers(job, iter([]))) == []

    strange = rows.assign(item="nothing").iloc[:3]
    with pytest.raises(UserError, match="user 3 has item 'nothing', which is not"):
        list(answers(job, iter([strange])))
    skipping = dataclasses.replace(job, unknown="skip")
    (popular,) = answers(skipping, iter([strange]))
    nothing = eqids.load(finished).recommend([[]], 4, deny=["item 2"])
    assert popular["item"].tolist() == nothing["item"].tolist()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17")
@pytest.mark.filterwarnings("default")
def test_workers_answer_as_one_process(spark: Any, finished: Path) -> None:
    import eqids.spark

    frame = spark.createDataFrame(events())
    found = eqids.spark.recommend(frame, finished, k=3)
    assert [field.dataType.simpleString() for field in found.schema] == [
        "bigint", "int", "string", "string", "double"
    ]  # fmt: skip
    expected = wanted(finished, 3)
    assert_answers(as_sorted(found.toPandas()), expected)
    spelled = frame.selectExpr("user", "item", "timestamp_seconds(time) AS time")
    again = eqids.spark.recommend(spelled, finished, k=3, num_partitions=2)
    assert_answers(as_sorted(again.toPandas()), expected)
    with pytest.raises(UserError, match="no column 'time'"):
        eqids.spark.recommend(frame.drop("time"), finished)
    with pytest.raises(UserError, match="'time' of the table is string"):
        eqids.spark.recommend(
            frame.selectExpr("user", "item", "string(time) AS time"), finished
        )
