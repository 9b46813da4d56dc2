"""Times the loading of a pretrained Llama's weights, from files to arrays."""

import importlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from bench.checkpoint_ways import RAW, ready
from bench.clock import Stoppable, Timing, alternate
from bench.contender import Measured, measure_each
from bench.machine import anonymous_bytes, free_bytes, take_pages
from bench.record import (
    FIRST,
    OURS,
    ResultRow,
    Section,
    find,
    joined,
    of_one_size,
    ratio,
    row_of_bytes,
)
from bench.storage_options import LoadOptions
from bench.train_torch import has_torch
from convert import load_llama
from convert.hf_config import hf_config
from convert.hf_files import shard_paths
from convert.hf_write import llama_tensors, write_llama
from convert.outputs import Weight, output_folder
from eqids.config import LLAMA_PRESETS, LlamaConfig, require

TORCH = "safetensors.torch"
LOAD, READ, READ_COPY = "load", "read", "read, then copy"
MAP, MAP_COPY = "load_file", "load_file, then copy"
"""The copy converts to the dtype that ours loads."""
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

MEANINGS = {
    "copy_ratio": "time to read the files and copy what was read / ours",
    "read_ratio": "time to read the files into fresh memory / ours",
    "torch_ratio": "time of load_file and a copy of its tensors, in the same dtype / "
    "ours",
    "torch_first_ratio": "the same, the first time in a process",
    "anonymous_ratio": "peak memory of loading, weights included and mapped files left "
    "out / bytes of the weights",
}


@dataclass(frozen=True)
class LoadCase:
    """What a process measures: one contender alone and once, or all in turns."""

    folder: Path
    alone: str | None

    def __str__(self) -> str:
        return f"{self.alone}, {FIRST}" if self.alone else "all in turns"


def measure(options: LoadOptions) -> Section:
    """Returns the timings of every way to load a folder."""
    near = options.folder or Path.cwd()
    with tempfile.TemporaryDirectory(prefix="bench-load-", dir=near) as name:
        folder = options.llama_path
        if folder is None:
            config = LLAMA_PRESETS[options.measured_size]
            _check_space(near, config)
            folder = Path(name) / "llama"
            write_random(config, folder, options.seed)
        alone = [OURS, TORCH] if has_torch() else [OURS]
        firsts = [LoadCase(folder, one) for one in alone]
        cases = [*firsts * options.most_repetitions, LoadCase(folder, None)]
        rows, notes = measure_each(measure_case, options, cases)
        rows = joined(rows)
    return Section(
        "load",
        _keys(rows),
        MEANINGS,
        rows,
        _notes() + notes,
        of_one_size("Loading a pretrained Llama", rows),
    )


def write_random(config: LlamaConfig, folder: Path, seed: int) -> None:
    """Writes a Llama of random weights in bfloat16, in files of 5 GB at most."""
    block = 0.02 * np.random.default_rng(seed).standard_normal(1 << 20)
    block = block.astype(BFLOAT16)

    def weight(shape: tuple[int, ...]) -> Weight:
        def parts() -> Iterator[np.ndarray]:
            for start in range(0, int(np.prod(shape)), len(block)):
                yield block[: int(np.prod(shape)) - start]

        return Weight(shape, BFLOAT16, parts)

    weights = {
        key: weight(tensor.shape) for key, (_, tensor) in llama_tensors(config).items()
    }
    with output_folder(folder) as new:
        write_llama(new, weights, hf_config(config, "bfloat16"), None, 5 * 10**9)


def measure_case(options: LoadOptions, case: LoadCase) -> Measured:
    """Measures in this process, which has not used jax yet."""
    clock, dtype = Stoppable(), options.dtype
    paths = shard_paths(case.folder)
    ready(case.folder, cold=False)

    def ours() -> None:
        llama = load_llama(case.folder, dtype)
        jax.block_until_ready(llama)
        with clock.stopped():
            del llama

    if case.alone is not None:
        return [_once(case, dtype, paths, clock)], []
    ways = {(OURS, LOAD): ours}
    ways |= {(RAW, READ): lambda: _read(paths, clock, copies=False)}
    ways |= {(RAW, READ_COPY): lambda: _read(paths, clock, copies=True)}
    if has_torch():
        ways |= {(TORCH, MAP): lambda: _map(paths, clock, None)}
        ways |= {(TORCH, MAP_COPY): lambda: _map(paths, clock, dtype)}
    runs = {", ".join(label): way for label, way in ways.items()}
    timings = alternate(
        runs, options.most_repetitions, options.most_seconds, clock=clock
    )
    return [
        _row(*label, timings[name], paths)
        for name, label in zip(runs, ways, strict=True)
    ], []


def _once(
    case: LoadCase, dtype: str, paths: Sequence[Path], clock: Stoppable
) -> ResultRow:
    """Loads once, and watches the memory of ours."""
    if case.alone == TORCH:
        # While it is imported, the memory taken below would go back to the host.
        importlib.import_module("safetensors.torch")
    size = sum(path.stat().st_size for path in paths)
    take_pages(size // BFLOAT16.itemsize * np.dtype(dtype).itemsize)
    llama, before = None, anonymous_bytes()
    with _watched() as most:
        wall, cpu = clock()
        if case.alone == TORCH:
            _map(paths, clock, dtype)
        else:
            llama = jax.block_until_ready(load_llama(case.folder, dtype))
        wall_end, cpu_end = clock()
    timing = Timing((wall_end - wall,), (cpu_end - cpu,))
    if llama is None:
        return _row(TORCH, f"{MAP_COPY}, {FIRST}", timing, paths)
    row = _row(OURS, f"{LOAD}, {FIRST}", timing, paths)
    if before is None:
        return row
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(llama))
    share = (most[0] - before) / size
    return replace(row, facts={**row.facts, "memory": share})


def _read(paths: Sequence[Path], clock: Stoppable, copies: bool) -> None:
    """Reads whole files into fresh memory, and copies it if `copies`."""
    held = []
    for path in paths:
        data = np.empty(path.stat().st_size, np.uint8)
        with path.open("rb", buffering=0) as file:
            view, done = memoryview(data.data), 0
            while count := file.readinto(view[done:]):
                done += count
        held.append(data.copy() if copies else data)
    with clock.stopped():
        del held, data, view


def _map(paths: Sequence[Path], clock: Stoppable, dtype: str | None) -> None:
    """Loads with safetensors.torch, whose tensors stay mapped until they are copied.

    Args:
        paths: the files.
        clock: stopped while memory is freed.
        dtype: the dtype of copies; None for no copies.
    """
    with clock.stopped():
        torch: Any = importlib.import_module("torch")
        load_file: Any = importlib.import_module("safetensors.torch").load_file
    held = []
    for path in paths:
        found = load_file(path)
        if dtype is not None:
            kind = getattr(torch, dtype)
            found = {k: v.to(kind, copy=True) for k, v in found.items()}
        held.append(found)
    with clock.stopped():
        del held, found


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Watches this process's anonymous memory; yields a list with the peak."""
    most, done = [0], threading.Event()

    def watch_memory() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous_bytes() or 0)

    watch = threading.Thread(target=watch_memory, daemon=True)
    watch.start()
    try:
        yield most
    finally:
        done.set()
        watch.join()
        most[0] = max(most[0], anonymous_bytes() or 0)


def _check_space(near: Path, config: LlamaConfig) -> None:
    need = 2 * sum(
        int(np.prod(tensor.shape)) for _, tensor in llama_tensors(config).values()
    )
    free = shutil.disk_usage(near).free
    require(
        free >= 1.1 * need,
        f"{near} has {free / 1e9:.1f} GB left, wanted {1.1 * need / 1e9:.1f}, see "
        "--folder and --llama_size",
    )
    free = free_bytes()
    require(
        free >= 3 * need,
        f"{free / 1e9:.1f} GB of memory are free, wanted {3 * need / 1e9:.1f}, see "
        "--llama_size",
    )


def _row(name: str, work: str, timing: Timing, paths: Sequence[Path]) -> ResultRow:
    size = sum(path.stat().st_size for path in paths)
    case = {"MB": round(size / 1e6), "files": len(paths)}
    kind = jax.devices()[0].device_kind
    return row_of_bytes(size, case, name, work, timing, kind)


def _keys(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    ours = find(rows, OURS, LOAD)
    first = find(rows, OURS, f"{LOAD}, {FIRST}")
    torch_first = find(rows, TORCH, f"{MAP_COPY}, {FIRST}")
    return {
        "copy_ratio": ratio(find(rows, RAW, READ_COPY), ours),
        "read_ratio": ratio(find(rows, RAW, READ), ours),
        "torch_ratio": ratio(find(rows, TORCH, MAP_COPY), ours),
        "torch_first_ratio": ratio(torch_first, first),
        "anonymous_ratio": None if first is None else first.facts.get("memory"),
    }


def _notes() -> list[str]:
    notes = [
        "All files are in the page cache before: the disk is not measured. EqIDs "
        "checks that every weight is finite, the others do not. us each: microseconds "
        "a MB.",
        f"{MAP}: tensors stay mapped, and are read only when they are used.",
        f"{FIRST}: each time in a new process, whose memory is fresh, but not fresh to "
        "the virtual machine: that costs several times as much.",
    ]
    if not has_torch():
        notes.append(f"{TORCH} is left out: torch is not installed.")
    return notes
