"""One train step by kind of kernel, from a trace of jax's profiler."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from bench.gpu.device_step import step_of
from bench.gpu.gpu_cases import StepCase
from bench.gpu.part_context import GpuRow, PartContext

_STEPS = 3
_KINDS: Mapping[str, str] = {
    "attention": r"fmha|flash|sdpa|attention|softmax_lse",
    "matrix products": r"gemm|cutlass|cublas|matmul|\bdot|_dot|nvjet|xmma|triton_gemm",
    "collectives": r"nccl|all.?reduce|all.?gather|reduce.?scatter",
    "copies": r"memcpy|memset|\bcopy|_copy",
    "transposes": r"transpose",
    "sorts": r"sort|radix|top.?k",
    "gathers and scatters": r"gather|scatter|dynamic.(update.)?slice",
    "reductions": r"reduce|norm",
    "fusions": r"fusion|elementwise|broadcast|convert|select|loop",
}
"""Kinds of kernels, and what is in the names of their kernels; the first that fits."""
OTHERS = "others"


def measure(case: StepCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields a row for each kind of kernel, the slowest first."""
    made = step_of(case, context.platform, context.seed)
    made.run()
    made.run()
    folder = context.folder / "trace"
    with jax.profiler.trace(str(folder)):
        for _ in range(_STEPS):
            made.run()
    nanoseconds, calls = by_kind(kernels(folder))
    whole = sum(nanoseconds.values())
    if not whole:
        yield GpuRow(str(case), note="the trace holds no kernels")
        return
    for kind, spent in nanoseconds.most_common():
        numbers = {
            "ms a step": spent / 1e6 / _STEPS,
            "share": spent / whole,
            "calls a step": calls[kind] / _STEPS,
        }
        yield GpuRow(f"{kind}, {case}", numbers)


def by_kind(
    events: Iterator[tuple[str, float]],
) -> tuple[Counter[str], Counter[str]]:
    """Returns by kind of kernel the nanoseconds and the number of calls.

    Args:
        events: names of kernels with their nanoseconds.
    """
    nanoseconds, calls = Counter[str](), Counter[str]()
    for name, spent in events:
        fits = (k for k, mark in _KINDS.items() if re.search(mark, name, re.IGNORECASE))
        kind = next(fits, OTHERS)
        nanoseconds[kind] += spent  # type: ignore[assignment]
        calls[kind] += 1
    return nanoseconds, calls


def kernels(folder: Path) -> Iterator[tuple[str, float]]:
    """Yields the names and nanoseconds of all kernels in a trace.

    On a GPU they are the events of the device's streams; on a CPU those of the threads
    that run XLA's instructions, which have the statistic `hlo_op`.
    """
    (path,) = folder.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        on_gpu = plane.name.startswith("/device:GPU")
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                if on_gpu or any(name == "hlo_op" for name, _ in event.stats):
                    yield event.name, event.duration_ns
