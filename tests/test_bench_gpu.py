"""`python -m bench gpu` at toy sizes, on a CPU, and on machines that lack packages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import ROOT
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command
from bench.gpu import run_parts, wheels
from bench.gpu.gpu_options import GpuOptions, PartName
from bench.gpu.gpu_parts import PARTS
from bench.gpu.gpu_tables import part_text
from bench.gpu.part_context import PartContext
from eqids.config import UserError

SEVERAL = "ibis duckdb grain tyro pandas pyarrow sklearn threadpoolctl tokenizers"
MISSING = (*SEVERAL.split(), "huggingface_hub", "gguf", "transformers", "starlette")
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
"""Run before everything else in a process, which then lacks these packages."""


def environment(folder: Path) -> dict[str, str]:
    """The environment of processes that lack the packages, their children included."""
    (folder / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def on_cpu(tmp_path: Path, *flags: str, **env: str) -> dict[str, Any]:
    """What `bench gpu` writes, run in a process of its own at toy sizes."""
    path = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "gpu", "--platform", "cpu", "--json", str(path),
         "--folder", str(tmp_path), *flags],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    found: dict[str, Any] = json.loads(path.read_text())["gpu"]
    assert {*found["parts"]} <= {*PARTS}
    # Nothing of the parts' processes is left.
    assert [p.name for p in tmp_path.glob("bench-gpu-*")] == []
    return found


def test_it_starts_without_what_prepares_data(tmp_path: Path) -> None:
    env = environment(tmp_path)
    found = on_cpu(tmp_path, "--parts", "kernels", "serve", "--minutes", "20", **env)
    kernels, serve = found["parts"]["kernels"], found["parts"]["serve"]
    assert kernels["status"] == "measured" and not kernels["errors"]
    assert serve["status"] == "left out"
    ((_, why),) = serve["left_out"]
    assert why in {f"{one} is not installed" for one in MISSING}


@pytest.mark.long
def test_every_part_runs_at_toy_sizes_without_what_prepares_data(
    tmp_path: Path,
) -> None:
    found = on_cpu(tmp_path, "--minutes", "30", **environment(tmp_path))
    statuses = {name: part["status"] for name, part in found["parts"].items()}
    absent = {"serve": "left out", "peers": "left out"}
    assert statuses == {name: "measured" for name in PARTS} | absent


@pytest.mark.long
def test_every_part_runs_at_toy_sizes(tmp_path: Path) -> None:
    found = on_cpu(tmp_path, "--minutes", "30")
    assert list(found["parts"]) == list(PARTS)
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, part in found["parts"].items():
        assert part["status"] == "measured", part
        assert part["rows"] and part["environment"]["device"] == "cpu"
        rows[name] = part["rows"]
        text = part_text(name, part)
        assert all(row["work"] in text for row in part["rows"])
    for row in rows["train"]:
        assert row["numbers"]["tokens/s"] > 0
    reference, same, *others = rows["parity"][:3]
    assert same["numbers"]["last"] == pytest.approx(reference["numbers"]["last"])
    assert 0 < others[0]["numbers"]["off at most"] < 0.05
    searches = [row for row in rows["head"] if "top 10" in row["work"]]
    assert {row["numbers"].get("same") for row in searches} <= {1.0, None}
    assert rows["storage"][-1]["note"] == "equal to the bit"
    assert sum(row["numbers"]["share"] for row in rows["profile"]) == pytest.approx(1)
    assert [row["numbers"]["failed"] for row in rows["serve"][2:]] == [0.0] * 4


@pytest.fixture
def parts(monkeypatch: MonkeyPatch) -> list[tuple[str, float]]:
    """Replaces the processes of parts; returns the names and seconds of those run."""
    ran = list[tuple[str, float]]()

    def run(task: Any, most: float) -> tuple[dict[str, Any], str]:
        ran.append((task.part, task.seconds))
        if task.part == "train":
            error = {"case": "a", "error": "ValueError: no", "traceback": "…"}
            return {"rows": [], "errors": [error], "left_out": []}, ""
        row = {"work": "a", "numbers": {"ms": 1.5}, "note": ""}
        return {"rows": [row], "errors": [], "left_out": []}, ""

    monkeypatch.setattr(run_parts, "_run", run)
    return ran


def test_a_part_that_fails_is_recorded_and_the_next_ones_run(
    parts: list[tuple[str, float]], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    argv = ["gpu", "--platform", "cpu", "--json", str(path), "--minutes", "3"]
    said = refused(command.main, argv, capsys)
    assert "error: train ended with an error, see above" in said
    assert [name for name, _ in parts] == list(PARTS)
    found = json.loads(path.read_text())["gpu"]["parts"]
    assert {n for n, one in found.items() if one["status"] != "measured"} == {"train"}
    assert found["train"]["errors"][0]["traceback"] == "…"
    # A second run measures the failed part only, and --again those that it names.
    del parts[:]
    refused(command.main, argv, capsys)
    assert [name for name, _ in parts] == ["train"]
    del parts[:]
    refused(command.main, [*argv, "--again", "--parts", "head", "train"], capsys)
    assert [name for name, _ in parts] == ["train", "head"]


def test_time_is_shared_and_a_part_that_would_begin_later_is_not_run(
    parts: list[tuple[str, float]], monkeypatch: MonkeyPatch
) -> None:
    clock = [0.0]

    def run(task: Any, most: float) -> tuple[dict[str, Any], str]:
        assert 0 < task.seconds <= most
        parts.append((task.part, task.seconds))
        clock[0] += 1.3 * task.seconds
        return {"rows": [{"work": "a", "numbers": {}, "note": ""}]}, ""

    monkeypatch.setattr(run_parts, "_run", run)
    monkeypatch.setattr(run_parts.time, "monotonic", lambda: clock[0])
    found = run_parts.measure_parts(
        GpuOptions(minutes=1.0, platform="cpu"), lambda name, result: None
    )["gpu"]["parts"]
    shares = [part.shares["cpu"] for part in PARTS.values()]
    assert parts[0] == ("kernels", pytest.approx(60 * shares[0] / sum(shares)))
    assert clock[0] <= 60 + 1.3 * run_parts._LEAST
    assert list(found) == list(PARTS)
    assert found["profile"]["status"] == "not run"
    assert found["kernels"]["status"] == "measured"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("{", "holds no results of bench gpu"),
        ('{"train": {}}', "holds no results of bench gpu"),
        (
            '{"gpu": {"platform": "gpu", "parts": {}}}',
            "holds results of --platform gpu",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, content: str, wanted: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match=wanted):
        run_parts.measure_parts(
            GpuOptions(json=path, platform="cpu"), lambda name, result: None
        )
    assert path.read_text() == content


def test_flags_are_checked(
    tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_parts, "_NVIDIA", (str(tmp_path / "none*"),))
    said = refused(command.main, ["gpu"], capsys)
    assert "--platform is gpu, and this machine has no NVIDIA GPU" in said
    assert get_args(PartName) == tuple(PARTS)
    said = refused(command.main, ["gpu", "--parts", "head", "head"], capsys)
    assert "--parts names head twice" in said
    said = refused(command.main, ["gpu", "--minutes", "0"], capsys)
    assert "--minutes is 0.0, wanted more than 0" in said


def test_a_process_that_takes_too_long_is_ended_with_those_that_it_started(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(60)']); "
        "open(sys.argv[1], 'w').write(str(child.pid)); "
        "time.sleep(60)"
    )
    pid, real = tmp_path / "pid", subprocess.Popen
    monkeypatch.setattr(
        run_parts.subprocess,
        "Popen",
        lambda words, **more: real([words[0], "-c", code, str(pid)], **more),
    )
    task = run_parts.PartTask(
        "head", 0, "cpu", 1.0, 0, str(tmp_path), str(tmp_path / "results.json")
    )
    found, why = run_parts._run(task, 4.0)
    assert not found and why == "stopped after 4 s, its share of --minutes"
    for _ in range(100):
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    raise AssertionError("a grandchild is left")


def test_parts_know_when_their_time_is_over() -> None:
    now = time.monotonic()
    context = PartContext("cpu", now + 100, 0, Path())
    assert 99 < context.left() <= 100 and context.budget(0.5, 10.0) == 10.0
    assert PartContext("cpu", now - 1, 0, Path()).left() == 0


def test_the_wheels_are_those_of_the_other_python(monkeypatch: MonkeyPatch) -> None:
    options = wheels.WheelsOptions(Path("w"), "3.13", "aarch64")
    words = wheels.pip_arguments(options)
    assert words[words.index("--python-version") + 1] == "313"
    assert "cp313" in words and "manylinux_2_28_aarch64" in words
    assert "tensorstore" in words and "--no-deps" in words
    with pytest.raises(UserError, match="--python is '312', wanted a version"):
        wheels.WheelsOptions(python="312")


def test_the_page_of_wheels_names_all_of_them() -> None:
    page = (ROOT / "bench" / "gpu.md").read_text()
    for name in (*wheels.WHEELS, *wheels.SERVE_WHEELS):
        assert f"`{name}`" in page
    for name, part in PARTS.items():
        assert f"`{name}`" in page and part.does
