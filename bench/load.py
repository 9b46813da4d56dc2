"""A pretrained Llama's weights, from files to arrays in their places."""

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
from bench.machine import anonymous_bytes, free_bytes
from bench.options import LoadOptions
from bench.record import (
    FIRST,
    OURS,
    Row,
    Section,
    find,
    of_one_size,
    ratio,
    row_of_bytes,
)
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
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

MEANINGS = {
    "copy_ratio": "time to read the files and copy what was read / ours",
    "read_ratio": "time to read the files into fresh memory / ours",
    "torch_ratio": "time of load_file and a copy of its tensors / ours",
    "anonymous_ratio": "memory that loading took at most, mapped files left out / "
    "bytes of the weights, which are in it",
}


@dataclass(frozen=True)
class Case:
    """What a process measures: ours alone, a single time, or all in turns."""

    folder: Path
    alone: bool

    def __str__(self) -> str:
        return f"{OURS}, {FIRST}" if self.alone else "all in turns"


def measure(options: LoadOptions) -> Section:
    """Returns the timings of every way to load a folder."""
    near = options.folder or Path.cwd()
    with tempfile.TemporaryDirectory(prefix="bench-load-", dir=near) as name:
        folder = options.llama_path
        if folder is None:
            config = LLAMA_PRESETS[options.size_of_llama]
            _check_room(near, config)
            folder = Path(name) / "llama"
            write_random(config, folder, options.seed)
        cases = [Case(folder, alone) for alone in (True, False)]
        rows, notes = measure_each(measure_case, options, cases)
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


def measure_case(options: LoadOptions, case: Case) -> Measured:
    """Measures in this process, which has not used jax yet."""
    clock, dtype = Stoppable(), options.dtype
    paths = shard_paths(case.folder)
    ready(case.folder, cold=False)

    def ours() -> None:
        llama = load_llama(case.folder, dtype)
        jax.block_until_ready(llama)
        with clock.stopped():
            del llama

    if case.alone:
        before = anonymous_bytes()
        with _watched() as most:
            wall, cpu = clock()
            llama = jax.block_until_ready(load_llama(case.folder, dtype))
            wall_end, cpu_end = clock()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(llama))
        timing = Timing((wall_end - wall,), (cpu_end - cpu,))
        row = _row(OURS, f"{LOAD}, {FIRST}", timing, paths)
        if before is None:
            return [row], []
        share = (most[0] - before) / size
        return [replace(row, facts={**row.facts, "memory": share})], []
    ways = {(OURS, LOAD): ours}
    ways |= {(RAW, READ): lambda: _read(paths, clock, copies=False)}
    ways |= {(RAW, READ_COPY): lambda: _read(paths, clock, copies=True)}
    if has_torch():
        ways |= {(TORCH, MAP): lambda: _map(paths, clock, copies=False)}
        ways |= {(TORCH, MAP_COPY): lambda: _map(paths, clock, copies=True)}
    runs = {", ".join(label): way for label, way in ways.items()}
    timings = alternate(
        runs, options.most_repetitions, options.most_seconds, clock=clock
    )
    return [
        _row(*label, timings[name], paths)
        for name, label in zip(runs, ways, strict=True)
    ], []


def _read(paths: Sequence[Path], clock: Stoppable, copies: bool) -> None:
    """Reads whole files into fresh memory, and then perhaps copies it."""
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


def _map(paths: Sequence[Path], clock: Stoppable, copies: bool) -> None:
    """Loads by safetensors.torch, whose tensors are mapped until they are copied."""
    load_file: Any = importlib.import_module("safetensors.torch").load_file
    held = []
    for path in paths:
        found = load_file(path)
        held.append({k: v.clone() for k, v in found.items()} if copies else found)
    with clock.stopped():
        del held, found


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Looks at this process's anonymous memory all the time; yields the most."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous_bytes() or 0)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield most
    finally:
        done.set()
        watch.join()
        most[0] = max(most[0], anonymous_bytes() or 0)


def _check_room(near: Path, config: LlamaConfig) -> None:
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


def _row(name: str, work: str, timing: Timing, paths: Sequence[Path]) -> Row:
    size = sum(path.stat().st_size for path in paths)
    case = {"MB": round(size / 1e6), "files": len(paths)}
    kind = jax.devices()[0].device_kind
    return row_of_bytes(size, case, name, work, timing, kind)


def _keys(rows: Sequence[Row]) -> dict[str, float | None]:
    ours = find(rows, OURS, LOAD)
    first = find(rows, OURS, f"{LOAD}, {FIRST}")
    return {
        "copy_ratio": ratio(find(rows, RAW, READ_COPY), ours),
        "read_ratio": ratio(find(rows, RAW, READ), ours),
        "torch_ratio": ratio(find(rows, TORCH, MAP_COPY), ours),
        "anonymous_ratio": None if first is None else first.facts.get("memory"),
    }


def _notes() -> list[str]:
    notes = [
        "All files are in memory before (a page cache): what is measured is not the "
        "disk. EqIDs checks that every weight is finite, the others do not. us each: "
        "of a MB.",
        f"{MAP}: tensors stay mapped, and nothing is read until they are used.",
    ]
    if not has_torch():
        notes.append(f"{TORCH} is left out: torch is not installed.")
    return notes
