"""Evaluating, recommending, and what every command says of a mistake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_dataset
from models import log_probs_at
from pytest import CaptureFixture
from runs import refused, small

import eqids
from eqids import checkpoint, evaluate, prepare, recommend, train
from eqids.data import Dataset


def test_evaluate_repeats_the_runs_own_result(finished: Path, tmp_path: Path) -> None:
    evaluate.main(["--checkpoint", str(finished), "--json", str(tmp_path / "r.json")])
    again = json.loads((tmp_path / "r.json").read_text())
    assert again == json.loads((finished / "result.json").read_text())


def test_recommendations_are_the_models_most_probable_items(
    dataset: Dataset, finished: Path
) -> None:
    from eqids.data.batches.training_batches import query_batch
    from eqids.model import Batch

    recommender = eqids.load(finished)
    user = int(np.argmax(np.diff(dataset.offsets)))
    past = slice(dataset.offsets[user], dataset.offsets[user + 1])
    history, times = dataset.slots[past], dataset.times[past]
    items = dataset.items().set_index("slot")
    frame = pd.DataFrame(
        {"user": "one", "item": items["item"].loc[history].to_numpy(), "time": times}
    )
    model = recommender.opened.model
    batch = Batch.of(query_batch([history], [times], 16))
    log_probs = log_probs_at(model, batch, min(len(history), 16) - 1)
    scores = np.exp(np.asarray(log_probs, np.float64))
    for seen in (True, False):
        found = recommender.recommend(frame, k=40, filter_seen=seen)
        allowed = [s for s in items.index if not (seen and s in history)]
        order = sorted(allowed, key=lambda s: (-scores[s], s))
        assert found["item"].tolist() == items["item"].loc[order].tolist()
        assert found["title"].tolist() == items["title"].loc[order].tolist()
        assert found["rank"].tolist() == list(range(1, len(order) + 1))
        np.testing.assert_allclose(found["probability"], scores[order], rtol=1e-4)
        assert set(found["user"]) == {"one"}
    assert found["probability"].sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("tokens", [["--help"], ["list", "--help"]])
def test_a_command_whose_output_is_not_read_ends_quietly(tokens: list[str]) -> None:
    command = [sys.executable, "-m", "eqids.checkpoint", *tokens]
    unread, written = os.pipe()
    os.close(unread)
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE)
    os.close(written)
    assert (done.returncode, done.stderr) == (141, b"")


def test_allow_and_deny(finished: Path) -> None:
    recommender = eqids.load(str(finished))
    histories = [["item 1", "item 2"], ["item 3"]]
    found = recommender.recommend(
        histories, k=3, allow=["item 2", "item 5", "item 6"], deny=["item 5"]
    )
    assert found["user"].tolist() == [0, 1, 1]
    assert set(found["item"]) == {"item 2", "item 6"}
    everything = recommender.recommend(histories, k=100, deny=["item 9"])
    assert "item 9" not in set(everything["item"])


def test_recommend_by_user_by_history_and_by_file(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    where = ["--checkpoint", str(finished)]
    recommend.main([*where, "--user", "user 0", "--k", "3"])
    assert len(re.findall(r"item \d+  Film \d+", capsys.readouterr().out)) == 3
    recommend.main([*where, "--history", "item 1, item 2", "--k", "4", "--keep_seen"])
    shown = re.findall(r"item \d+", capsys.readouterr().out)
    expected = eqids.load(finished).recommend(
        [["item 1", "item 2"]], k=4, filter_seen=False
    )
    assert shown == expected["item"].tolist()
    moments = [1_700_000_000 + second for second in (30, 10, 20, 40)]
    frame = pd.DataFrame(
        {
            "user": ["b", "a", "b", "a"],
            "item": ["item 1", "item 4", "item 2", "item 5"],
            "time": pd.to_datetime(moments, unit="s"),
        }
    )
    frame.to_parquet(tmp_path / "in.parquet")
    recommend.main(
        [*where, "--input", str(tmp_path / "in.parquet"), "--k", "2",
         "--output", str(tmp_path / "out.parquet")]
    )  # fmt: skip
    zoned = frame.assign(time=frame["time"].dt.tz_localize("UTC"))
    again = eqids.load(finished).recommend(zoned, k=2)
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, again)
    expected = eqids.load(finished).recommend(frame.assign(time=moments), k=2)
    pd.testing.assert_frame_equal(found, expected)
    assert found["user"].tolist() == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--history", "item 1,Heat"], "'Heat' is not in the catalog"),
        (["--user", "nobody"], "'nobody' is not among the users"),
        (["--user", "user 1", "--k", "0"], "--k is 0"),
        (["--user", "user 1", "--history", "item 1"], "2 are given"),
        (
            ["--input", "no.parquet", "--output", "o.parquet"],
            "no.parquet does not exist",
        ),
        (["--input", "no.parquet"], "--input and --output go together"),
    ],
)
def test_recommend_refuses(
    flags: list[str], said: str, finished: Path, capsys: CaptureFixture[str]
) -> None:
    typed = ["--checkpoint", str(finished), *flags]
    assert said in " ".join(refused(recommend.main, typed, capsys).split())


def test_a_file_of_histories_that_is_wrong_is_named(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "in.parquet"
    flags = ["--checkpoint", str(finished), "--input", str(path)]
    flags += ["--output", str(tmp_path / "out.parquet")]
    cases = {
        "no column 'user'": pd.DataFrame({"who": ["a"], "item": ["item 1"]}),
        "'item 99' is not in the catalog": pd.DataFrame(
            {"user": ["a"], "item": ["item 99"]}
        ),
        "'time'": pd.DataFrame({"user": ["a"], "item": ["item 1"], "time": ["soon"]}),
        "no rows": pd.DataFrame({"user": [], "item": []}),
        "'user' is empty in 1 of 2 rows, first in row 2": pd.DataFrame(
            {"user": ["a", None], "item": ["item 1", "item 2"]}
        ),
        "'time' is empty in 1 of 1 rows, first in row 1": pd.DataFrame(
            {"user": ["a"], "item": ["item 1"], "time": [pd.NaT]}
        ).astype({"time": "datetime64[s]"}),
        "'time' is '1e+300' in row 1": pd.DataFrame(
            {"user": ["a"], "item": ["item 1"], "time": [1e300]}
        ),
    }
    for said, frame in cases.items():
        frame.to_parquet(path)
        found = refused(recommend.main, flags, capsys)
        assert said in found and str(path) in found
    path.write_text("no parquet")
    assert "holds text" in refused(recommend.main, flags, capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.parquet"]


# Mistakes


def test_wrong_places_are_named_with_what_to_do(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    said = refused(train.main, ["--data_dir", str(nowhere)], capsys)
    assert str(nowhere) in said and "python -m eqids.prepare" in said
    for path in (nowhere, finished / "999", tmp_path):
        said = refused(evaluate.main, ["--checkpoint", str(path)], capsys)
        assert str(path) in said
    other = make_dataset(tmp_path / "other", num_items=20, seed=1)
    flags = ["--checkpoint", str(finished), "--data_dir", str(other.path)]
    assert "catalog" in refused(evaluate.main, flags, capsys)
    said = refused(train.main, small(other.path, finished), capsys)
    assert "was trained on another catalog" in said
    a_file = tmp_path / "file"
    a_file.write_text("")
    said = refused(train.main, small(dataset.path, a_file), capsys)
    assert str(a_file) in said and "--checkpoint_dir" in said
    said = refused(
        train.main, ["--data_dir", str(dataset.path), "--seq_len", "0"], capsys
    )
    assert "--seq_len is 0" in " ".join(said.split())


def test_a_damaged_checkpoint_is_refused_by_every_command(
    dataset: Dataset, finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for file in (folder / "40" / "arrays").rglob("*"):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(bytes(data))
    for command, flags in (
        (evaluate.main, ["--checkpoint", str(folder / "40")]),
        (recommend.main, ["--checkpoint", str(folder / "40"), "--user", "user 0"]),
        (checkpoint.main, ["verify", str(folder / "40")]),
    ):
        assert "40" in refused(command, flags, capsys)
    # A run that resumes from it resumes from the step before, and says so.
    train.main(small(dataset.path, folder))
    said = capsys.readouterr()
    assert f"warning: step 40 of {folder}: array " in said.err
    assert f"going on from step 20, found in {folder}" in said.out


def test_help_teaches(capsys: CaptureFixture[str]) -> None:
    for command in (train, evaluate, recommend, prepare):
        with pytest.raises(SystemExit) as exit_:
            command.main(["--help"])
        assert exit_.value.code == 0
        shown = capsys.readouterr().out
        assert "python -m eqids." in shown and "--data_dir" in shown
