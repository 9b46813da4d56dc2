"""`eqids.prepare` and `eqids.train` from Python: what the commands do, and no words."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pytest import CaptureFixture
from test_startup import HEAVY

import eqids
from eqids.config import PrepareConfig, TrainConfig, UserError
from eqids.data import Dataset


def plays(num_users: int = 30, num_items: int = 20) -> pd.DataFrame:
    """Events of users, whose ids are texts and whose times are dates."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(num_users), 8)
    seconds = 1_700_000_000 + np.tile(np.arange(8), num_users) * 86_400
    return pd.DataFrame(
        {
            "listener": [f"user {u:02}" for u in user],
            "track": rng.integers(100, 100 + num_items, len(user)),
            "played_at": pd.to_datetime(seconds, unit="s"),
        }
    )


COLUMNS: dict[str, Any] = {
    "user_column": "listener",
    "item_column": "track",
    "time_column": "played_at",
    "title_column": "name",
}


@pytest.fixture(scope="module")
def tracks() -> pd.DataFrame:
    ids = np.arange(100, 120)
    return pd.DataFrame({"track": ids, "name": [f"Track {i}" for i in ids]})


@pytest.fixture(scope="module")
def prepared(tracks: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("frames") / "plays"
    return eqids.prepare(plays(), folder, items=tracks, **COLUMNS)


def test_a_frame_makes_the_dataset_of_its_file(
    prepared: Dataset, tracks: pd.DataFrame, tmp_path: Path
) -> None:
    """The command, given the same rows as CSV files, writes the same data."""
    from eqids import prepare

    plays().to_csv(tmp_path / "plays.csv", index=False)
    tracks.to_csv(tmp_path / "tracks.csv", index=False)
    flags = [f"--{name}={value}" for name, value in COLUMNS.items()]
    source = ["--source", f"csv:{tmp_path / 'plays.csv'}"]
    names = ["--items", str(tmp_path / "tracks.csv")]
    prepare.main([*source, *names, *flags, "--data_dir", str(tmp_path / "d")])
    info = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert prepared.info.dataset_hash == info["dataset_hash"]
    assert prepared.info.source == "DataFrame"
    assert repr(prepared).endswith("plays: 30 users, 20 items, 240 events)")
    assert prepared.items()["title"].tolist() == [
        f"Track {item}" for item in prepared.items()["item"]
    ]


def test_tables_of_any_library_are_read(prepared: Dataset, tmp_path: Path) -> None:
    class Stream:
        """What other libraries' tables have."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.Table.from_pandas(plays()).__arrow_c_stream__(requested_schema)

    config = PrepareConfig(**{n: v for n, v in COLUMNS.items() if n != "title_column"})
    for number, table in enumerate((pa.Table.from_pandas(plays()), Stream())):
        made = eqids.prepare(table, tmp_path / str(number), config=config)
        np.testing.assert_array_equal(made.offsets, prepared.offsets)
        np.testing.assert_array_equal(made.times, prepared.times)


def test_none_is_a_value_of_flags_that_have_it(tmp_path: Path) -> None:
    """Without times the order of rows is that of events."""
    frame, columns = plays(6)[["listener", "track"]], {**COLUMNS, "time_column": None}
    made = eqids.prepare(frame, tmp_path / "d", **columns)
    assert made.times is None
    first = frame["track"].iloc[: made.offsets[1]].tolist()
    items = made.items().set_index("slot")["item"]
    assert items.loc[made.history(0)].tolist() == first


def test_what_is_wrong_with_a_frame_is_said_of_its_argument(
    tmp_path: Path, tracks: pd.DataFrame
) -> None:
    empty = plays()
    empty.loc[4, "track"] = None
    mixed = plays().astype({"track": object})
    mixed.loc[3, "track"] = "a"
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (plays(), {}, "source has no column 'user_id': it has listener"),
        (empty, COLUMNS, "source: column 'track' is empty in 1 of 240 rows"),
        (mixed, COLUMNS, "source cannot be read: .*track.*one type each"),
        (plays(), {"lr": 1}, "--lr is not a flag of python -m eqids.prepare"),
        (plays(), {**COLUMNS, "seed": "one"}, "seed is 'one', wanted a whole number"),
        (plays(), {**COLUMNS, "seed": True}, "seed is True, wanted a whole number"),
        (plays(), {**COLUMNS, "split": "half"}, "split is 'half', wanted one of leave"),
        (
            plays(),
            {**COLUMNS, "null_values": "NA"},
            "null_values is 'NA', wanted a list",
        ),
        (
            plays(),
            {**COLUMNS, "items": tracks[["name"]]},
            "items has no column 'track'",
        ),
        (plays(), {**COLUMNS, "items": 3}, "items is 3, wanted a path"),
        (3, COLUMNS, "source is 3, wanted a text"),
    ]
    for frame, flags, said in cases:
        with pytest.raises(UserError, match=said) as error:
            eqids.prepare(frame, tmp_path / "d", **flags)
        assert "eqids-frames" not in str(error.value)
    with pytest.raises(UserError, match="needs data_dir"):
        eqids.prepare(plays(), **COLUMNS)
    assert not [*tmp_path.iterdir()]


def test_messages_go_where_the_caller_wants_them(
    tmp_path: Path, tracks: pd.DataFrame, capsys: CaptureFixture[str]
) -> None:
    some = tracks.iloc[:5]
    with pytest.warns(UserWarning, match="items does not name 15 of 20 items") as found:
        eqids.prepare(plays(), tmp_path / "a", items=some, **COLUMNS)
    assert len([one for one in found if "items does not" in str(one.message)]) == 1
    heard: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        eqids.prepare(
            plays(), tmp_path / "b", items=some, report=heard.append, **COLUMNS
        )
    assert heard[0] == "reading the DataFrame source"
    assert any(one.startswith("warning: items does not name 15") for one in heard)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


SMALL = TrainConfig(
    batch_size=4, seq_len=16, item_width=8, learning_rate=1e-2, schedule="cosine"
)
"""The settings of `runs.small`, some as a config and the others as arguments."""


def test_training_from_python_is_the_commands(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """The same result to the bit as the command's, and silent."""
    run = eqids.train(
        dataset, tmp_path / "run", config=SMALL, num_steps=40, eval_every=20,
        log_every=1,
    )  # fmt: skip
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert (run.step, run.finished, run.checkpoint_dir) == (40, True, tmp_path / "run")
    assert run.result == json.loads((finished / "result.json").read_text())
    assert run.result == json.loads((tmp_path / "run" / "result.json").read_text())


@pytest.mark.long
def test_a_stopped_run_goes_on_from_python(dataset: Dataset, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"config": SMALL, "num_steps": 20, "eval_every": 10}
    first = eqids.train(dataset, tmp_path / "run", stop_at=10, **flags)
    assert (first.step, first.finished, first.result) == (10, False, None)
    heard: list[str] = []
    run = eqids.train(dataset, tmp_path / "run", report=heard.append, **flags)
    assert (run.step, run.finished) == (20, True)
    assert any("going on from step 10, found in " in one for one in heard)
    assert any("EqIDs" in one for one in heard)


@pytest.mark.long
def test_a_second_stage_takes_flags_over_from_python(
    prepared: Dataset, tmp_path: Path
) -> None:
    first = eqids.train(
        prepared, tmp_path / "one", num_steps=2, batch_size=4, seq_len=16, item_width=8
    )
    heard: list[str] = []
    second = eqids.train(
        load_checkpoint=first.checkpoint_dir / "2", checkpoint_dir=tmp_path / "two",
        num_steps=2, batch_size=4, report=heard.append,
    )  # fmt: skip
    assert second.finished
    (taken,) = [one for one in heard if one.startswith("taken over from ")]
    assert "--item_width 8" in taken and f"--data_dir {prepared.path}" in taken


def test_training_refuses_as_the_command_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m eqids.prepare"):
        eqids.train(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--lr is not a flag.*wanted --learning_rate"):
        eqids.train(lr=1e-3)
    with pytest.raises(UserError, match="estimate_memory_only"):
        eqids.train(estimate_memory_only=True)


LIGHT = f"""
import sys, inspect
import eqids
from eqids.config import UserError
names = [n for n in {HEAVY!r} if n in sys.modules]
assert not names, names
first = eqids.train
import eqids.train, eqids.prepare
from eqids import prepare
assert eqids.train is first and callable(eqids.train) and callable(prepare)
assert "checkpoint_dir" in inspect.signature(eqids.train).parameters
names = [n for n in {HEAVY!r} if n in sys.modules]
assert not names, names
try:
    eqids.train(config=3)
except UserError as error:
    print(error)
try:
    eqids.nonsense
except AttributeError as error:
    print(error)
"""


def test_importing_eqids_is_light_and_its_names_are_functions_in_any_order() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "eqids.train: config is a int, wanted a TrainConfig",
        "module 'eqids' has no attribute 'nonsense'",
    ]
