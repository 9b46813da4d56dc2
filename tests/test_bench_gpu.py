"""`python -m bench gpu` at toy sizes, on a CPU, and on machines that lack packages."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from pytest import CaptureFixture, MonkeyPatch
from runs import refused

from bench import __main__ as command
from bench.gpu import card, head_part, kernels_part, profile_part, run_parts, wheels
from bench.gpu.device_step import job_of, made, predicted, preset_of_case
from bench.gpu.gpu_cases import AttentionCase, CatalogCase, StepCase
from bench.gpu.gpu_options import GpuOptions, PartName
from bench.gpu.gpu_parts import PARTS
from bench.gpu.gpu_tables import part_text
from bench.gpu.made_histories import made_batches
from bench.gpu.part_context import PartContext
from bench.gpu.running_out import ran_out
from eqids.config import UserError
from sharding.compiled.machines import HARDWARE

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


def test_the_reference_of_attention_is_numpys() -> None:
    """jax's float32 attention, which kernels are compared with, against brute force."""
    case = AttentionCase(2, 6, 4, 2, 8)
    arrays, mask = kernels_part.inputs(case, 0)
    wide = [x.astype(jnp.float32) for x in arrays]
    q, k, v, _ = (np.asarray(x, np.float64) for x in wide)
    k, v = (np.repeat(x, 2, axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8)
    scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = np.einsum("bhqk,bkhd->bqhd", weights, v)
    found = kernels_part.reference(wide, mask)
    assert kernels_part.relative(found[0], wanted) < 1e-6
    ours = kernels_part.with_gradients(arrays, mask, "xla")
    for one, other in zip(ours, found, strict=True):
        assert 0 < kernels_part.relative(one, other) < 0.01


def test_torch_finds_the_items_that_ours_finds() -> None:
    """Also with an empty cluster and a last one that is not full."""
    head = head_part.device_head(CatalogCase(30_000, 8), 0)
    assert int(head.valid.any(axis=1).sum()) < len(head.valid)
    assert int(head.valid.sum()) == 30_000
    query = jax.random.normal(jax.random.key(0), (3, 8))
    assert head_part.torch_top_k(head, query, 10).facts == {"same": 1.0}


def test_weights_made_on_the_device_are_of_the_steps_shapes_and_spread() -> None:
    job = job_of(StepCase("nano", "lora", 2, 16, 30_000), "cpu")
    step = predicted(job)
    model = made(step.run.frozen)
    for one, shape in zip(
        jax.tree.leaves(model), jax.tree.leaves(step.run.frozen), strict=True
    ):
        assert (one.shape, one.dtype) == (shape.shape, shape.dtype)
    assert np.std(model.llama.blocks.w_up) == pytest.approx(0.02, rel=0.02)
    assert np.unique(np.asarray(model.llama.blocks.w_up)).size > 10_000
    assert (model.llama.norm == 1).all() and model.softmax.valid.all()


def test_the_shapes_of_a_case_do_not_depend_on_the_card() -> None:
    case = StepCase("1b", "lora", 32, 64)
    assert preset_of_case(case, "h100-80gb").num_items == 1_000_000
    jobs = [
        dataclasses.replace(job_of(case, platform).step, kernel="xla", dtype="")
        for platform in ("gpu", "gpu")
    ]
    assert jobs[0] == jobs[1]
    assert job_of(case, "gpu").step.kernel == "cudnn"
    assert job_of(case, "cpu").step.dtype == "float32"


@pytest.mark.parametrize("tokens", [0, 3])
def test_made_batches_are_packed_histories(tokens: int) -> None:
    case = StepCase("nano", "heads", 4, 32, 90, tokens)
    sizes = job_of(case, "cpu").model
    batches = made_batches(case, sizes, 3, 0)
    assert [batch.items.shape for batch in batches] == [(4, 32)] * 3
    items = np.concatenate([batch.items for batch in batches])
    segments = np.concatenate([batch.segment for batch in batches])
    assert items.max() < 90 and (segments > 0).mean() > 0.9
    assert segments.max() > 1
    texts = np.concatenate([batch.tokens for batch in batches])[items < 0]
    assert (texts > 0).any() == bool(tokens)
    again = made_batches(case, sizes, 3, 0)
    assert all((a.items == b.items).all() for a, b in zip(batches, again, strict=True))


def test_kernels_are_counted_by_kind() -> None:
    names = {
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
        "nvjet_hsh_128x256_64x4_1x2": "matrix products",
        "sm90_xmma_gemm_bf16bf16": "matrix products",
        "gemm_fusion_dot_12": "matrix products",
        "MemcpyD2D": "copies",
        "loop_transpose_fusion": "transposes",
        "input_scatter_fusion_3": "gathers and scatters",
        "input_reduce_fusion": "reductions",
        "loop_multiply_fusion": "fusions",
        "ncclDevKernel_AllReduce": "collectives",
        "whatever": profile_part.OTHERS,
    }
    spent, calls = profile_part.by_kind((name, 2.0) for name in names)
    for kind in set(names.values()):
        number = list(names.values()).count(kind)
        assert (spent[kind], calls[kind]) == (2.0 * number, number)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", HARDWARE["h100-80gb"].bf16_flops),
        ("NVIDIA A100-SXM4-40GB", HARDWARE["a100-40gb"].bf16_flops),
        ("NVIDIA L4", None),
    ],
)
def test_the_data_sheet_of_a_card(
    monkeypatch: MonkeyPatch, kind: str, flops: float | None
) -> None:
    class Device:
        device_kind = kind

    monkeypatch.setattr(card.jax, "devices", lambda: [Device()])
    assert card.data_sheet_flops() == flops


def test_running_out_of_memory_differs_from_other_errors() -> None:
    assert ran_out(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying …"))
    assert ran_out(MemoryError()) and not ran_out(ValueError("a shape"))


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
