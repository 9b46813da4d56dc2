"""Preparations that are killed, or run out of disk or memory, leave no dataset."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FRUGAL_SPARK, ROOT
from surroundings import full_disk

from eqids.config import PrepareConfig, UserError
from eqids.data import open_dataset
from eqids.data.preparation import prepare
from eqids.data.raw import ordered_events

on_spark = pytest.mark.skipif(
    shutil.which("java") is None, reason="Spark needs Java 17"
)


def events(path: Path, number: int) -> str:
    """Writes events, and returns the source that names them."""
    rng = np.random.default_rng(0)
    columns = {
        "user_id": rng.integers(0, number // 20, number),
        "item_id": rng.integers(0, 200, number),
        "timestamp": 1_600_000_000 + rng.integers(0, 10**7, number),
    }
    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def command(source: str, folder: Path, *flags: str) -> list[str]:
    start = [sys.executable, "-m", "eqids.prepare", "--source", source]
    return [*start, "--data_dir", str(folder / "out"), *flags]


def spark_flags(folder: Path, master: str) -> list[str]:
    (folder / "spark").mkdir()
    settings = {**FRUGAL_SPARK, "spark.driver.memory": "700m"}
    del settings["spark.master"]
    conf = [f"{name}={value}" for name, value in settings.items()]
    return [
        "--engine", "spark", "--spark_master", master,
        "--spark_dir", str(folder / "spark"), "--spark_conf", *conf,
    ]  # fmt: skip


def one_sentence(job: "subprocess.Popen[str]", folder: Path) -> str:
    """The error of a command that ended with code 2 and left nothing."""
    said = job.communicate(timeout=240)[0].strip().splitlines()
    assert job.returncode == 2, said
    assert not any(line.startswith("Traceback") for line in said)
    assert not (folder / "out").exists() and not any(folder.glob(".out*"))
    return said[-1]


def started(*line: str, **kwargs: object) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        line, cwd=ROOT, text=True, stdout=pipe, stderr=subprocess.STDOUT, **kwargs
    )


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the dataset's folder, and of the folder of temporary files."""
    config = PrepareConfig(
        source=events(tmp_path / "e", 3_000), data_dir=tmp_path / "d"
    )
    with full_disk(10_000), pytest.raises(UserError, match="d could not be written"):
        prepare(config, lambda message: None)
    monkeypatch.setattr(ordered_events, "_MAPPED_BYTES", 1_000)
    with full_disk(10_000), pytest.raises(UserError, match="set TMPDIR to another"):
        prepare(config, lambda message: None)
    assert {path.name for path in tmp_path.iterdir()} == {"e"}
    prepare(config, lambda message: None)


def test_too_little_memory_is_one_sentence(tmp_path: Path) -> None:
    source = events(tmp_path / "e", 300_000)
    config = PrepareConfig(source=source, data_dir=tmp_path / "d", memory_gb=0.008)
    with pytest.raises(UserError, match=r"--memory_gb 0\.008 is too little"):
        prepare(config, lambda message: None)
    assert not (tmp_path / "d").exists()


@pytest.mark.long
def test_a_killed_preparation_leaves_nothing_that_opens(tmp_path: Path) -> None:
    """Killed at each of its messages; then the same command makes the dataset."""
    source = events(tmp_path / "e", 30_000)
    line = command(source, tmp_path)
    for stage in ("reading", "splitting", "clustering", "writing"):
        with started(*line) as job:
            assert job.stdout is not None
            for said in job.stdout:
                if said.startswith(stage):
                    job.send_signal(signal.SIGKILL)
        assert job.returncode == -signal.SIGKILL
        with pytest.raises(UserError, match="does not exist"):
            open_dataset(tmp_path / "out")
    assert subprocess.run(line, cwd=ROOT, capture_output=True).returncode == 0
    assert open_dataset(tmp_path / "out").num_users == 1_500


@pytest.mark.long
@on_spark
def test_a_full_disk_of_spark_is_one_sentence(tmp_path: Path) -> None:
    line = command(events(tmp_path / "e", 200_000), tmp_path)
    line += spark_flags(tmp_path, "local[1]")
    limited = ["bash", "-c", 'ulimit -f 1200; exec "$@"', "bash"]
    said = one_sentence(started(*limited, *line), tmp_path)
    assert re.search("File too large|could not be written|No space", said)
    assert not any((tmp_path / "spark").iterdir())


@pytest.mark.long
@on_spark
def test_a_spark_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    line = command(events(tmp_path / "e", 5_000), tmp_path)
    line += spark_flags(tmp_path, "local[1]")
    job = started(*line, start_new_session=True)
    _kill_java(job, tmp_path / "spark", "org.apache.spark.deploy.SparkSubmit", 1)
    assert "Spark's process has ended" in one_sentence(job, tmp_path)


@pytest.mark.long
@on_spark
def test_executors_that_die_change_nothing(tmp_path: Path) -> None:
    """Spark starts others, and repeats what they did."""
    source = events(tmp_path / "e", 5_000)
    line = command(source, tmp_path) + spark_flags(tmp_path, "local-cluster[1,1,1024]")
    job = started(*line, start_new_session=True)
    _kill_java(job, tmp_path / "spark", "CoarseGrainedExecutorBackend", 2)
    said = job.communicate(timeout=300)[0]
    assert job.returncode == 0, said
    config = PrepareConfig(source=source, data_dir=tmp_path / "duckdb")
    expected = prepare(config, lambda message: None)
    found = open_dataset(tmp_path / "out")
    assert found.info.files == expected.info.files


def _kill_java(
    job: "subprocess.Popen[str]", tables: Path, name: str, times: int
) -> None:
    """Kills the processes of a session that run a Java class, whenever another table
    is stored."""
    for number in range(times):
        while job.poll() is None and len(list(tables.glob("*/*/*.parquet"))) <= number:
            time.sleep(0.02)
        assert job.poll() is None
        for pid in _processes(os.getsid(job.pid), name):
            os.kill(pid, signal.SIGKILL)


def _processes(session: int, name: str) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            pid, own = int(status.parent.name), name.encode() in status.read_bytes()
            if own and os.getsid(pid) == session:
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found
