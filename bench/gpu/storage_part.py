"""Loading a Llama's weights, saving a run while it trains, and resuming it."""

import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bench.clock import Spread
from bench.gpu.device_step import DeviceStep, step_of
from bench.gpu.gpu_cases import LoadedCase, SavedCase
from bench.gpu.part_context import GpuRow, LeftOutError, PartContext
from bench.load import write_random
from convert import load_llama
from convert.hf_write import llama_tensors
from eqids.checkpoints import Saver, restore
from eqids.config import LLAMA_PRESETS
from eqids.fit.step import outline

_SPACE = 1.2
"""Times the bytes of what is written that the disk must have."""


def measure(case: LoadedCase | SavedCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields rows; what is written is deleted.

    Raises:
        LeftOutError: the disk is too small.
    """
    if isinstance(case, LoadedCase):
        yield from _loaded(case, context)
    else:
        yield from _saved(case, context)


def _loaded(case: LoadedCase, context: PartContext) -> Iterator[GpuRow]:
    config = LLAMA_PRESETS[case.llama_size]
    tensors = llama_tensors(config).values()
    size = 2 * sum(int(np.prod(tensor.shape)) for _, tensor in tensors)
    _check_space(context, size)
    folder = context.folder / "llama"
    start = time.perf_counter()
    write_random(config, folder, context.seed)
    written = time.perf_counter() - start
    load = functools.partial(load_llama, folder, jnp.bfloat16)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        llama = jax.block_until_ready(load())
        seconds.append(time.perf_counter() - start)
        del llama
    shutil.rmtree(folder)
    numbers = {
        "GB": size / 1e9,
        "write s": written,
        "first s": seconds[0],
        "first GB/s": size / seconds[0] / 1e9,
        "again s": seconds[1],
        "again GB/s": size / seconds[1] / 1e9,
    }
    yield GpuRow(str(case), numbers, "files in memory; every weight is checked")


def _saved(case: SavedCase, context: PartContext) -> Iterator[GpuRow]:
    made = step_of(case.step, context.platform, context.seed, case.num_steps)
    alone = made.times(1, case.num_steps, context.budget(0.2, 5.0)).median
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(made.state))
    _check_space(context, size)
    folder = context.folder / "run"
    with Saver(folder) as saver:
        start = time.perf_counter()
        saver.save(0, made.state, {})
        waited = time.perf_counter() - start
        during, uninterrupted = _steps(made, case.num_steps)
        start_waiting = time.perf_counter()
        saver.wait()
        end = time.perf_counter()
    numbers = {
        "GB": size / 1e9,
        "step waits s": waited,
        "saved after s": end - start,
        "left after the steps s": end - start_waiting,
        "step ms": 1e3 * alone,
        "step ms while saving": 1e3 * Spread.of(tuple(during)).median,
    }
    yield GpuRow(str(case), numbers)
    yield _resumed(case, made, folder, uninterrupted)
    shutil.rmtree(folder)


def _resumed(
    case: SavedCase, made: DeviceStep, folder: Path, uninterrupted: list[float]
) -> GpuRow:
    """Restores the state and repeats the steps that followed the save."""
    shapes = outline(made.state)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(made.state))
    del made.state  # the device need not hold both
    start = time.perf_counter()
    made.state = jax.block_until_ready(restore(folder / "0", shapes))
    seconds = time.perf_counter() - start
    made.rewind(case.num_steps)
    _, again = _steps(made, case.num_steps)
    off = np.abs(np.array(again) - np.array(uninterrupted))
    return GpuRow(
        f"resume {case.step}",
        {"s": seconds, "GB/s": size / seconds / 1e9, "loss off at most": off.max()},
        "equal to the bit" if not off.any() else "losses differ",
    )


def _steps(made: DeviceStep, number: int) -> tuple[list[float], list[float]]:
    """The seconds and the losses of further steps."""
    seconds, losses = [], []
    for _ in range(number):
        start = time.perf_counter()
        losses.append(float(made()))
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def _check_space(context: PartContext, size: int) -> None:
    free = shutil.disk_usage(context.folder).free
    if free < _SPACE * size:
        raise LeftOutError(
            f"{context.folder} has {free / 1e9:.1f} GB left, and "
            f"{_SPACE * size / 1e9:.1f} are needed, see --folder"
        )
