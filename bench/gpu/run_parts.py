"""Runs the parts one after the other, each in processes of its own, within a time.

The time that a part may take is its share of what is left. So a part that ends early
leaves more to the next ones. Results are written after each part.
"""

import dataclasses
import glob
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from bench import machine
from bench.gpu.gpu_cases import GpuPlatform
from bench.gpu.gpu_options import GpuOptions
from bench.gpu.gpu_parts import PARTS
from bench.gpu.part_process import PartTask
from eqids.config import Stopped, UserError, require, to_json
from eqids.io.atomic import write_json

PartStatus = Literal["measured", "failed", "stopped", "left out", "not run"]
PartResult = dict[str, Any]
"""JSON values: status, seconds, cpu_seconds, rows, errors, left_out, environment,
commit."""

_NVIDIA = "/dev/nvidia[0-9]*", "/dev/dxg", "/dev/nvhost*"
_GRACE = 1.3
"""Times its share of the time after which a part's process is ended."""
_ENDING = 10.0
"""Seconds that a process has to end by itself."""
_QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
"""XLA's flags on a CPU, where toy programs are compiled once and run for a second."""
_LEAST = 1.0
"""Seconds that must be left for a part to begin."""


def measure_parts(
    options: GpuOptions, report: Callable[[str, PartResult], None]
) -> dict[str, Any]:
    """Returns the results of all parts, of which the file of --json may hold some.

    Args:
        options: the flags.
        report: called with the name and the result of each part when it has ended.

    Raises:
        UserError: there is no GPU, or the file holds something else.
    """
    require(
        options.platform == "cpu" or any(map(glob.glob, _NVIDIA)),
        "--platform is gpu, and this machine has no NVIDIA GPU; wanted one, or "
        "--platform cpu for toy sizes",
    )
    whole = _begun(options)
    parts: dict[str, PartResult] = whole["gpu"]["parts"]
    todo = [
        name for name in PARTS
        if name in (options.parts or PARTS)
        and (options.again or parts.get(name, {}).get("status") != "measured")
    ]  # fmt: skip
    end = time.monotonic() + 60 * options.minutes
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        for at, name in enumerate(todo):
            shares = [PARTS[one].shares[options.platform] for one in todo[at:]]
            left = end - time.monotonic()
            seconds = left * shares[0] / sum(shares)
            parts[name] = _part(options, name, seconds, min(left, _GRACE * seconds))
            whole["gpu"]["parts"] = {one: parts[one] for one in PARTS if one in parts}
            if options.json is not None:
                write_json(options.json, whole)
            report(name, parts[name])
    finally:
        signal.signal(signal.SIGTERM, before)
    return whole


def _stop(number: int, _: object) -> None:
    """Ends the process that runs, by way of an exception, when this one is ended."""
    raise Stopped("stopped; parts that had ended are in the file of --json", number)


def _begun(options: GpuOptions) -> dict[str, Any]:
    """The results to complete: those of the file, or none."""
    fresh = {
        "gpu": {"platform": options.platform, "parts": {}},
        "config": to_json(options),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
    path = options.json
    if path is None or not path.exists():
        return fresh
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["gpu"]
        platform, parts = before["platform"], dict(before["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--json {path} holds no results of bench gpu; wanted such a file to "
            "complete, or a new name"
        ) from error
    require(
        platform == options.platform,
        f"--json {path} holds results of --platform {platform}, and --platform is "
        f"{options.platform}; wanted another file",
    )
    fresh["gpu"] = {"platform": platform, "parts": parts}
    return fresh


def _part(options: GpuOptions, name: str, seconds: float, most: float) -> PartResult:
    """The result of a part, of all its processes."""
    result: PartResult = {
        "status": "not run", "seconds": 0.0, "cpu_seconds": 0.0,
        "rows": [], "errors": [], "left_out": [], "environment": None,
        "commit": machine.commit(),
    }  # fmt: skip
    if seconds < _LEAST:
        return result
    start, before = time.monotonic(), _cpu_seconds()
    groups = PARTS[name].cases[options.platform]
    for group, cases in enumerate(groups):
        spent = time.monotonic() - start
        if spent >= seconds:
            over = "the time of its part was over"
            result["left_out"] += [[str(case), over] for case in cases]
            continue
        with tempfile.TemporaryDirectory(
            prefix="bench-gpu-", dir=options.folder
        ) as folder:
            task = PartTask(
                name, group, options.platform, seconds - spent, options.seed, folder,
                str(Path(folder) / "results.json"),
            )  # fmt: skip
            _add(result, *_run(task, most - spent))
    result["seconds"] = time.monotonic() - start
    result["cpu_seconds"] = _cpu_seconds() - before
    result["status"] = _status(result)
    return result


def _cpu_seconds() -> float:
    """The processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _status(result: PartResult) -> PartStatus:
    if result["errors"]:
        stopped = all(one["error"].startswith("stopped") for one in result["errors"])
        return "stopped" if stopped else "failed"
    return "measured" if result["rows"] else "left out"


def _run(task: PartTask, most: float) -> tuple[Mapping[str, Any], str]:
    """Runs a process, and ends it after some seconds.

    Returns:
        What it wrote, and why it ended early; empty if it did not.
    """
    path = Path(task.folder) / "task.json"
    write_json(path, dataclasses.asdict(task))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.gpu.part_process", str(path)],
        env=_environment(task.platform, PARTS[task.part].shares_card),
        start_new_session=True,
    )
    why = ""
    try:
        if process.wait(timeout=most) != 0:
            why = f"its process ended with exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        why = f"stopped after {most:.0f} s, its share of --minutes"
    finally:
        _end(process)
    try:
        found = json.loads(Path(task.results).read_text(encoding="utf-8"))
    except OSError:
        found = {}
    return found, why


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and those that it started, a server among them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=_ENDING)
        except subprocess.TimeoutExpired:
            continue


def _environment(platform: GpuPlatform, shares_card: bool) -> dict[str, str]:
    """The environment of a process; what the user has set stays."""
    wanted = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _QUICKLY}
    if platform == "gpu":
        # The CPU is the reference of losses and of attention.
        wanted = {"JAX_PLATFORMS": "cuda,cpu", "XLA_CLIENT_MEM_FRACTION": "0.94"}
        if shares_card:
            wanted = {**wanted, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {**wanted, **os.environ} | {"JAX_PLATFORMS": wanted["JAX_PLATFORMS"]}


def _add(result: PartResult, found: Mapping[str, Any], why: str) -> None:
    """Adds what a process found to its part's result."""
    for name in ("rows", "errors", "left_out"):
        result[name] += found.get(name, [])
    result["environment"] = found.get("environment", result["environment"])
    if why:
        case = found.get("case", "before its first case")
        result["errors"].append({"case": case, "error": why, "traceback": ""})
