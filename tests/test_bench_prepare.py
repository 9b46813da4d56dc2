"""The bench of `prepare`: what it times is the same for pandas and for EqIDs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pytest import CaptureFixture, MonkeyPatch

from bench import __main__ as command, prepare_speed
from eqids.config import PrepareConfig


def test_pandas_makes_the_same_histories(tmp_path: Path) -> None:
    events = tmp_path / "events.parquet"
    prepare_speed.write_events(events, 4_000, seed=3)
    found = prepare_speed.histories(PrepareConfig(source=f"parquet:{events}"))
    for name, array in prepare_speed.histories_by_pandas(events).items():
        np.testing.assert_array_equal(found[name], array, name)
    assert np.any((np.diff(found["time"]) == 0) & (np.diff(found["item"]) != 0))


@pytest.mark.long
def test_the_quick_bench_of_prepare(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "pin", lambda cores: None)
    file = tmp_path / "result.json"
    command.main(["prepare", "--quick", "--repetitions", "1", "--json", str(file)])
    found = json.loads(file.read_text())["prepare"]
    said = capsys.readouterr().out
    assert all(f"prepare.{key} " in said for key in prepare_speed.MEANINGS)
    measured = {(row["name"], row["work"]) for row in found["rows"]}
    assert measured - {("EqIDs on Spark", "dataset folder")} == {
        ("EqIDs", "dataset folder"), ("EqIDs", "histories"), ("pandas", "histories"),
    }  # fmt: skip
    if shutil.which("java"):
        assert found["spark_rows_per_second"] > 0 and found["spark_driver_gb"] > 0.1
    assert found["rows_per_second"] > 0 and found["pandas_ratio"] > 0
