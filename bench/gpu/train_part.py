"""Train steps: speed, share of the peak, and memory beside what was predicted."""

from collections.abc import Iterator

from bench.clock import Spread
from bench.gpu.card import (
    data_sheet_flops,
    device_bytes,
    measured_flops,
    peak_device_bytes,
)
from bench.gpu.device_step import DeviceStep, job_of, predicted
from bench.gpu.gpu_cases import StepCase
from bench.gpu.made_histories import made_batches
from bench.gpu.part_context import GpuRow, LeftOutError, PartContext
from eqids.planning.memory import Memory
from sharding.compiled.hlo import count
from sharding.compiled.machines import GIB

_TOGETHER, _REPETITIONS, _SECONDS = 5, 10, 12.0


def measure(case: StepCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields one row.

    Raises:
        LeftOutError: the step does not fit the device, by the estimate.
    """
    step, limit = predicted(job_of(case, context.platform)), device_bytes()
    if step.memory.peak > limit:
        raise LeftOutError(
            f"it needs about {step.memory.peak / GIB:.1f} GiB by the estimate, and the "
            f"device has {limit / GIB:.1f}"
        )
    # Before the arguments are made: its matrices are small beside them.
    peak_flops = measured_flops()
    batches = made_batches(case, step.job.model, 4, context.seed)
    made = DeviceStep(step, batches, context.seed)
    spread = made.times(_TOGETHER, _REPETITIONS, context.budget(0.5, _SECONDS))
    yield GpuRow(
        str(case),
        {
            "tokens/s": made.amount.positions / spread.median,
            "ms": 1e3 * spread.median,
            "ms, low": 1e3 * spread.low,
            "ms, high": 1e3 * spread.high,
            **_of_peak(made, spread, peak_flops),
            "compile s": made.compile_seconds,
            **memory(made, step.memory),
        },
    )


def _of_peak(made: DeviceStep, spread: Spread, peak: float) -> dict[str, float | None]:
    """FLOPs by formula, and their rate over the peaks; what the program multiplies."""
    rate, sheet = made.flops / spread.median, data_sheet_flops()
    counts = count(made.program.as_text())
    return {
        "of the data sheet": sheet and rate / sheet,
        "of a product": rate / peak,
        "TFLOP": made.flops / 1e12,
        "compiled / formula": counts.flops / made.flops,
    }


def memory(made: DeviceStep, estimated: Memory) -> dict[str, float | None]:
    """Returns the peak of the device's memory, and how far predictions are from it.

    The compiler's peak is what `python -m sharding prove` prints, and the estimate what
    `python -m sharding estimate` prints.

    Args:
        made: a step that has run in this process, before which nothing larger has.
        estimated: its closed form.
    """
    found = peak_device_bytes()
    analysis = made.program.memory_analysis()
    compiled = None if analysis is None else analysis.peak_memory_in_bytes

    def off(predicted: float | None) -> float | None:
        if found is None or predicted is None:
            return None
        return 100 * (predicted / found - 1)

    return {
        "peak GiB": found and found / GIB,
        "compiled GiB": compiled and compiled / GIB,
        "off %": off(compiled),
        "estimate GiB": estimated.peak / GIB,
        "estimate off %": off(estimated.peak),
    }
