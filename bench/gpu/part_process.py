"""The process that measures the cases of a part: `python -m bench.gpu.part_process`.

Its only argument is a JSON file, a `PartTask`. After each row it replaces the file of
results, so that a process that is killed leaves what it had measured.
"""

import dataclasses
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.gpu_cases import GpuCase, GpuPlatform
from bench.gpu.gpu_parts import PARTS
from bench.gpu.part_context import GpuRow, LeftOutError, PartContext
from bench.gpu.running_out import ran_out
from eqids.cli import run_as_process
from eqids.io.atomic import write_json


@dataclass(frozen=True)
class PartTask:
    """What a process is to do.

    Attributes:
        part: the name of the part.
        group: the number of the group of cases.
        platform: the device.
        seconds: after these no other case is begun.
        seed: of everything random.
        folder: for temporary files.
        results: where rows go.
    """

    part: str
    group: int
    platform: GpuPlatform
    seconds: float
    seed: int
    folder: str
    results: str


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the cases of one group, and writes rows and errors."""
    (path,) = sys.argv[1:] if argv is None else argv
    task = PartTask(**json.loads(Path(path).read_text(encoding="utf-8")))
    end = time.monotonic() + task.seconds
    context = PartContext(task.platform, end, task.seed, Path(task.folder))
    from bench.gpu.card import environment

    found: dict[str, Any] = {
        "rows": [], "errors": [], "left_out": [], "environment": environment()
    }  # fmt: skip
    for case in PARTS[task.part].cases[task.platform][task.group]:
        found["case"] = str(case)
        if context.left() == 0:
            found["left_out"].append([str(case), "the time of its part was over"])
            continue
        write_json(Path(task.results), found)
        _measure(PARTS[task.part].module, case, context, found, Path(task.results))
    del found["case"]
    write_json(Path(task.results), found)


def _measure(
    module: str,
    case: GpuCase,
    context: PartContext,
    found: dict[str, Any],
    path: Path,
) -> None:
    """Adds a case's rows to what was found; whatever it raises is recorded."""
    try:
        part = importlib.import_module(f"bench.gpu.{module}")
        for row in part.measure(case, context):
            found["rows"].append(_values(row))
            write_json(path, found)
    except LeftOutError as error:
        found["left_out"].append([str(case), str(error)])
    except ModuleNotFoundError as error:
        found["left_out"].append([str(case), f"{error.name} is not installed"])
    except Exception as error:
        if ran_out(error):
            found["rows"].append(_values(GpuRow(str(case), note="out of memory")))
            return
        lines = str(error).strip().splitlines()
        found["errors"].append(
            {
                "case": str(case),
                "error": f"{type(error).__name__}: {lines[0] if lines else ''}",
                "traceback": traceback.format_exc(),
            }
        )


def _values(row: GpuRow) -> dict[str, Any]:
    numbers = {n: None if x is None else float(x) for n, x in row.numbers.items()}
    return {**dataclasses.asdict(row), "numbers": numbers}


if __name__ == "__main__":
    run_as_process(main)
