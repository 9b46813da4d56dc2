"""Runs in several processes: they join, equal one process, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, assert_close, fake_devices
from folders import write_hf
from pytest import CaptureFixture, MonkeyPatch
from runs import refused, small

from convert import fingerprint
from eqids import train
from eqids.checkpoints import read_manifest, steps, verify
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.results import RESULT_FILE
from sharding import beside_others, initialize

SLURM_PORTS = 2**16 - 2**12
"""jax's port under Slurm is this plus the job's number."""

GREETING = (
    "[Gloo] Rank 0 is connected to 1 peer ranks. "
    "Expected number of connected peer ranks is : 1"
)
"""What gloo prints when processes meet."""

LOOP = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from eqids.cli import run
from sharding import initialize, placement

def main():
    initialize(sys.argv[1], 2, int(sys.argv[2]), heartbeat=10)
    put = placement("data")
    with put.active():
        total = jax.jit(lambda rows: jnp.sum(rows["x"]))
        for step in range(1_000_000):
            own = np.full((2, 3), step)
            print(int(total(put.batch({"x": own}, 4))), flush=True)

run(main)
"""
"""A computation that needs both of two processes."""


def free_port(lowest: int = 20_000) -> int:
    """A port of this machine that nobody listens on."""
    for port in range(lowest + os.getpid() % 2000, 2**16):
        with socket.socket() as free:
            try:
                free.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def start(
    tokens: Sequence[str], devices: int, output: Path, **env: str
) -> subprocess.Popen[bytes]:
    """Starts Python with so many fake devices; its output goes into a file."""
    # Only process 0 writes jax's cache, so the others would compile alone.
    env = {
        "XLA_FLAGS": fake_devices(devices), "JAX_ENABLE_COMPILATION_CACHE": "0", **env
    }  # fmt: skip
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *tokens],
            env={**os.environ, **env},
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def ending(jobs: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leaves no process behind."""
    try:
        yield
    finally:
        for job in jobs:
            job.kill()
            job.wait()


def of_slurm(number: int, port: int) -> Mapping[str, str]:
    """The environment that srun gives to one of two processes."""
    return {
        "SLURM_JOB_ID": str(port - SLURM_PORTS),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.long
def test_two_processes_do_what_one_does(dataset: Dataset, tmp_path: Path) -> None:
    more = "--layout fsdp --item_optimizer lazy_adam --log_every 2 --keep 1".split()
    more += "--num_steps 6 --eval_every 3 --train lora --adapter linear".split()
    write_hf(tmp_path / "llama", shards=3)
    more += ["--llama_path", str(tmp_path / "llama")]
    one, two = tmp_path / "one", tmp_path / "two"
    commands = [
        ["-m", "eqids.train", *small(dataset.path, run, *more)] for run in (two, one)
    ]
    port, logs = free_port(SLURM_PORTS), [tmp_path / f"{n}.log" for n in range(3)]
    jobs = [start(commands[0], 2, logs[n], **of_slurm(n, port)) for n in range(2)]
    with ending(jobs):
        for job, log in zip(jobs, logs, strict=False):
            assert job.wait(300) == 0, log.read_text()[-4000:]
    alone = start(commands[1], 4, logs[2])
    with ending([alone]):
        assert alone.wait(300) == 0, logs[2].read_text()[-4000:]
    assert "2 processes with 4 devices" in logs[0].read_text()
    # The second one prints nothing, except for gloo's greetings. Threads print them at
    # once, so that their characters are mixed, but there are no others.
    said = Counter(filter(str.isalpha, logs[1].read_text()))
    greetings = logs[1].read_text().count("[") * GREETING
    assert said == Counter(filter(str.isalpha, greetings))
    rows = [metrics(run) for run in (one, two)]
    assert [x["step"] for x in rows[0]] == [2, 3, 3, 4, 6, 6]
    for mine, theirs in zip(*rows, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"time", "targets_per_s"}:
            assert_close(mine[name], theirs[name], "mesh")
    # Each hashed some of the Llama's files.
    bases = [read_manifest(run / "6").meta["base"] for run in (one, two)]
    assert bases == 2 * [fingerprint(tmp_path / "llama")]
    # Both wrote their shards, and one process restores all of them.
    assert verify(two / "6") == []
    arrays = read_manifest(two / "6").arrays.values()
    assert {part[0] for array in arrays for part, _ in array.chunks} == {"0", "1"}
    again = tmp_path / "again.json"
    flags = ["--checkpoint", str(two), "--json", str(again)]
    evaluation = start(["-m", "eqids.evaluate", *flags], 4, logs[2])
    with ending([evaluation]):
        assert evaluation.wait(300) == 0, logs[2].read_text()[-4000:]
    files = (again, two / RESULT_FILE, one / RESULT_FILE)
    results = [json.loads(file.read_text()) for file in files]
    names = ("step", "filtered", "unfiltered", "nll", "popularity", "markov", "ease")
    for name in names:
        assert_close(results[0][name], results[1][name], "mesh")
        assert_close(results[0][name], results[2][name], "mesh")


@pytest.mark.long
def test_two_processes_stop_at_one_step_and_pass_over_a_damaged_one(
    dataset: Dataset, tmp_path: Path
) -> None:
    run, port = tmp_path / "run", free_port(SLURM_PORTS)
    more = "--layout fsdp --log_every 1 --save_every 10 --num_steps 100000".split()
    more += "--eval_every 100000 --heartbeat 60".split()
    tokens = ["-m", "eqids.train", *small(dataset.path, run, *more)]
    logs = [tmp_path / f"{n}.log" for n in range(2)]

    def launch(*more: str) -> list[subprocess.Popen[bytes]]:
        places = (of_slurm(n, port) for n in range(2))
        return [
            start([*tokens, *more], 2, log, **place)
            for log, place in zip(logs, places, strict=True)
        ]

    jobs = launch()
    with ending(jobs):
        while "step     12 " not in logs[0].read_text():
            assert [job.poll() for job in jobs] == [None, None], logs[0].read_text()
            time.sleep(0.1)
        jobs[1].send_signal(signal.SIGTERM)  # one is signaled, both stop
        for job, log in zip(jobs, logs, strict=True):
            assert job.wait(100) == 143, log.read_text()[-4000:]
    *_, before, last = steps(run)
    assert last % 10 == 0
    assert f"stopped by SIGTERM at step {last}" in logs[0].read_text()
    assert verify(run / str(last)) == []
    # A file that only the second process reads is damaged; both go back a step.
    (data,) = (run / str(last) / "arrays" / "1-0" / "d").iterdir()
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    jobs = launch("--stop_at", str(last))
    with ending(jobs):
        for job, log in zip(jobs, logs, strict=True):
            assert job.wait(200) == 0, log.read_text()[-4000:]
    said = logs[0].read_text()
    assert f"it is set aside as {run / str(last)}.damaged" in said
    assert f"going on from step {before}, " in said
    assert verify(run / str(last)) == []


@pytest.mark.parametrize(
    ("victim", "how"),
    [
        pytest.param(1, "SIGTERM", marks=pytest.mark.long),
        pytest.param(0, "SIGKILL", marks=pytest.mark.long),
        pytest.param(1, "SIGSTOP", marks=pytest.mark.long),
    ],
)
def test_a_process_that_has_ended_ends_the_other(
    victim: int, how: str, tmp_path: Path
) -> None:
    where, logs = f"localhost:{free_port()}", [tmp_path / f"{n}.log" for n in range(2)]
    jobs = [start(["-c", LOOP, where, str(n)], 2, logs[n]) for n in range(2)]
    with ending(jobs):
        while "\n36\n" not in logs[1].read_text():
            assert [job.poll() for job in jobs] == [None, None], logs[0].read_text()
            time.sleep(0.1)
        jobs[victim].send_signal(getattr(signal, how))
        assert jobs[1 - victim].wait(60) != 0
    said = logs[1 - victim].read_text()
    ours, of_jax = "another process of this run has ended", "another task died"
    assert ours in said or of_jax in said, said[-3000:]


def test_a_process_makes_its_rows_of_a_batch_only(dataset: Dataset) -> None:
    batches = TrainingBatches(dataset, BatchConfig(8, 6, request_time=True))
    (own,) = batches.iterate(3, 4, slice(2, 5))
    for name, whole in vars(batches.batch(3)).items():
        assert getattr(own, name).tolist() == whole[2:5].tolist()


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        ("--coordinator here:1 --num_processes 2", {}, "without --process_id"),
        ("--process_id 0", {}, "without --coordinator"),
        ("--coordinator here --num_processes 2 --process_id 0", {}, "HOST:PORT"),
        ("--coordinator a:1 --num_processes 2 --process_id 2", {}, "wanted 0 to 1"),
        ("", {"JAX_NUM_PROCESSES": "two"}, "is 'two', wanted a number"),
        ("", {"OMPI_COMM_WORLD_SIZE": "4"}, "pip install mpi4py"),
    ],
)
def test_processes_that_cannot_find_one_another_are_refused(
    flags: str,
    env: Mapping[str, str],
    said: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    wanted = small(dataset.path, tmp_path / "run", *flags.split())
    assert said in refused(train.main, wanted, capsys)
    assert steps(tmp_path / "run") == []


def test_one_process_runs_alone_whatever_started_it(monkeypatch: MonkeyPatch) -> None:
    for name, value in of_slurm(0, SLURM_PORTS).items():
        monkeypatch.setenv(name, value)
    initialize(num_processes=1)
    assert not beside_others()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    initialize()
    assert not beside_others()
