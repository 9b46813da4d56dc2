"""Recommendations of whole files: parts, kills, and the same answers as in memory."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from pytest import CaptureFixture
from runs import refused

from eqids import recommend
from eqids.checkpoints.lock import Lock
from eqids.config import RecommendConfig, UserError
from eqids.data import Dataset
from eqids.inference.bulk.bulk_run import open_bulk
from eqids.inference.load_recommender import load
from eqids.inference.recommender import Recommender
from eqids.io.digests import file_sha256

MANIFEST = "_manifest.json"


def events(dataset: Dataset, num_users: int, seed: int) -> pd.DataFrame:
    """Events of users in no order, some of items that the catalog does not hold."""
    rng = np.random.default_rng(seed)
    num = num_users * 6
    users = [*range(num_users), *rng.integers(0, num_users, num - num_users)]
    items = rng.integers(0, dataset.info.num_items + 2, num)
    return pd.DataFrame(
        {
            "user": rng.permutation(users),
            "item": [f"item {item}" for item in items],
            "time": 1_600_000_000 + rng.integers(0, 50, num),
        }
    )


def write_folder(path: Path, frame: pd.DataFrame) -> Path:
    """Two Parquet files of one frame, in order."""
    path.mkdir()
    middle = len(frame) // 3
    frame[:middle].to_parquet(path / "a.parquet", row_group_size=7)
    frame[middle:].to_parquet(path / "b.pq")
    return path


def bulk_flags(run: Path, source: Path, target: Path, *more: str) -> list[str]:
    return [
        *("--checkpoint", str(run), "--input", str(source), "--output", str(target)),
        *("--unknown", "skip", "--k", "5", "--users_of_part", "9", *more),
    ]


@pytest.fixture(scope="module")
def recommender(finished: Path) -> Recommender:
    """What all tests share, so that one compilation serves them."""
    return load(finished)


def fill(recommender: Recommender, source: Path, target: Path, **flags: Any) -> None:
    """Does what the command does with `bulk_flags`."""
    given = {"unknown": "skip", "k": 5, "users_of_part": 9, **flags}
    path = recommender.opened.path
    config = RecommendConfig(checkpoint=path, input=source, output=target, **given)
    with open_bulk(recommender, config, lambda message: None) as bulk:
        for part in bulk.missing():
            bulk.write(part, lambda num_users: None)
        bulk.finish()


def hashes(folder: Path) -> Mapping[str, str]:
    """The parts of a folder, and nothing else in it."""
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == [".lock", MANIFEST]
    return {name: file_sha256(folder / name) for name in names[2:]}


def test_a_folder_holds_what_recommend_returns(
    recommender: Recommender, dataset: Dataset, tmp_path: Path
) -> None:
    frame = events(dataset, 40, seed=0)
    # A user without any known item gets the most popular ones.
    frame.loc[frame["user"] == 20, "item"] = "nothing"
    source, target = write_folder(tmp_path / "in", frame), tmp_path / "out"
    fill(recommender, source, target)
    found = pd.read_parquet(target)
    wanted = recommender.recommend(frame, 5, unknown="skip")
    wanted = wanted.sort_values(["user", "rank"], ignore_index=True)
    same = ["user", "rank", "item", "title"]
    pd.testing.assert_frame_equal(found[same], wanted[same])
    np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-6)

    manifest = json.loads((target / MANIFEST).read_text())
    before, parts = hashes(target), manifest["parts"]
    assert {one["name"]: one["sha256"] for one in parts} == before
    assert [one["num_users"] for one in parts] == [9] * 4 + [4]
    assert [one["num_popular"] for one in parts] == [0, 0, 1, 0, 0]
    # What is missing is made again, and nothing else.
    kept = target / "part-00002.parquet"
    written = kept.stat().st_mtime_ns
    shutil.copy(kept, target / ".part-00001.parquet.partial-1")
    for name in ("part-00001.parquet", "part-00004.parquet"):
        (target / name).unlink()
    for _ in range(2):
        fill(recommender, source, target)
        assert hashes(target) == before and kept.stat().st_mtime_ns == written
        assert json.loads((target / MANIFEST).read_text()) == manifest
    with pytest.raises(UserError, match="of a job with another keep_seen: choose"):
        fill(recommender, source, target, keep_seen=True)
    fill(recommender, source, target, keep_seen=True, overwrite=True)
    assert hashes(target) != before


def test_filters_hold_in_a_folder_and_are_part_of_its_job(
    recommender: Recommender, dataset: Dataset, tmp_path: Path
) -> None:
    frame, target = events(dataset, 12, seed=3), tmp_path / "out"
    source = write_folder(tmp_path / "in", frame)
    items = dataset.items()["item"].tolist()
    allow, deny = tmp_path / "allow.txt", tmp_path / "deny.txt"
    allow.write_text("\n".join(items[:12]))
    deny.write_text("\n".join(items[:4]))
    fill(recommender, source, target, allow=allow, deny=deny)
    found = pd.read_parquet(target)
    wanted = recommender.recommend(
        frame, 5, unknown="skip", allow=items[:12], deny=items[:4]
    ).sort_values(["user", "rank"], ignore_index=True)
    assert 0 < len(found) and set(found["item"]) <= set(items[4:12])
    same = ["user", "rank", "item"]
    pd.testing.assert_frame_equal(found[same], wanted[same])
    deny.write_text(items[5])
    with pytest.raises(UserError, match="deny"):
        fill(recommender, source, target, allow=allow, deny=deny)


def test_what_a_folder_cannot_be_is_refused(
    recommender: Recommender, dataset: Dataset, tmp_path: Path
) -> None:
    frame, target = events(dataset, 20, seed=1), tmp_path / "out"
    source = write_folder(tmp_path / "in", frame)

    def refused_by(match: str, **flags: Any) -> None:
        with pytest.raises(UserError, match=match):
            fill(recommender, flags.pop("source", source), target, **flags)

    row = int((~frame["item"].isin(dataset.items()["item"])).argmax())
    unknown = f"row {row + 1} of the histories: item '{frame['item'][row]}' is not in"
    refused_by(unknown, unknown="refuse")
    assert not target.exists()
    target.mkdir()
    (target / "notes.txt").touch()
    refused_by("holds 'notes.txt', which is no file of recomm", overwrite=True)
    (target / "notes.txt").unlink()
    shutil.copy(source / "b.pq", target / "part-00000.parquet")
    refused_by("part-00000.parquet is no part of this job: choose another")
    (target / "part-00000.parquet").write_bytes(b"PAR1")
    refused_by("part-00000.parquet is no part of this job: choose another")
    (target / "part-00000.parquet").unlink()
    lock = Lock(target, print, "--output")
    refused_by("is in use by process .* see --output")
    lock.release()
    frame.assign(item="item 1", time=1.5).to_parquet(source / "c.parquet")
    refused_by(r"c\.parquet has the columns user int64, item string, time float64")
    refused_by("none does not exist, wanted a file", source=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused_by("is a folder without files .*parquet", source=tmp_path / "empty")


def kill_sweep(
    run: Path, recommender: Recommender, folder: Path, num_kills: int, seed: int
) -> int:
    """Kills a job at random moments; its parts must equal those of one without.

    Returns how many parts were complete after the last kill.
    """
    frame = events(recommender.dataset, 200, seed)
    frame.loc[frame["user"] == 3, "item"] = "nothing"
    source, target = write_folder(folder / "in", frame), folder / "killed"
    fill(recommender, source, folder / "whole")
    wanted, rng = hashes(folder / "whole"), random.Random(seed)
    flags = bulk_flags(run, source, target)
    for _ in range(num_kills):
        before = len(list(target.glob("part-*")))
        with subprocess.Popen(
            [sys.executable, "-m", "eqids.recommend", *flags],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as job:  # fmt: skip
            # At once, or a moment after the next part appears.
            goal = before + rng.randrange(3)
            while job.poll() is None and len(list(target.glob("part-*"))) < goal:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 3 if goal == before else 0.05))
            job.send_signal(signal.SIGKILL)
        for part in target.glob("part-*"):
            assert file_sha256(part) == wanted[part.name]
    complete = len(list(target.glob("part-*")))
    recommend.main(flags)
    assert hashes(target) == wanted
    return complete


@pytest.mark.long
def test_a_killed_job_continues(
    finished: Path,
    recommender: Recommender,
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    # With this seed the kill comes after the second part.
    done = 9 * kill_sweep(finished, recommender, tmp_path, 1, seed=5)
    said = capsys.readouterr().out.splitlines()
    assert done >= 18 and said[0] == f"continuing after {done} of 200 users"
    counts = [*range(done + 9, 200, 9), 200]
    assert said[1:-1] == [f"{num} of 200 users" for num in counts]
    parts = json.loads((tmp_path / "killed" / MANIFEST).read_text())["parts"]
    rows = sum(part["num_rows"] for part in parts)
    assert said[-1].startswith(f"{rows:,} recommendations for 200 users in {tmp_path}")
    assert (
        "items that the catalog does not hold left out (--unknown skip); " in said[-1]
    )
    assert said[-1].endswith("1 users without history got the most popular items")
    flags = ["--checkpoint", str(finished), "--user", "1", "--users_of_part", "3"]
    assert "--users_of_part is for a folder" in refused(recommend.main, flags, capsys)


@pytest.mark.long
def test_a_job_continues_after_kills(
    finished: Path, recommender: Recommender, tmp_path: Path
) -> None:
    kill_sweep(finished, recommender, tmp_path, 6, seed=2)
