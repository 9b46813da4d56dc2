"""Ways to write sharded arrays to the disk and to read them back."""

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.clock import Stoppable
from bench.record import OURS
from eqids.checkpoints import Saver, restore, save, verify
from eqids.io.cores import num_cores

ORBAX, RAW = "Orbax", "file copy"
SAVE, BEGIN, KEPT = "save", "begin a save", "begin a save, no step follows"
STEP, SAVE_STEP = "a step", "begin a save, then a step"
RESTORE, WARM = "restore", "restore, warm"
VERIFY, VERIFY_WARM = "verify", "verify, warm"
COPY, COPY_COLD = "copy", "copy, cold"
READ, READ_COLD = "read", "read, cold"

NamedArrays = dict[str, jax.Array]


def random_tree(num_bytes: int, num_devices: int, seed: int) -> NamedArrays:
    """Returns float32 arrays of random bits, sharded over this process's devices.

    Args:
        num_bytes: size of all of them, roughly.
        num_devices: number of fake CPU devices, which must be made before jax makes
            others; accelerators are all used.
        seed: seed of the values.
    """
    jax.config.update("jax_num_cpu_devices", num_devices)
    mesh = jax.make_mesh((len(jax.devices()),), ("x",))
    cut = jax.NamedSharding(mesh, jax.P("x"))
    num_arrays, width = 8, 1024
    rows = max(1, num_bytes // (num_arrays * width * 4 * mesh.size)) * mesh.size
    rng = np.random.default_rng(seed)
    tree = {}
    for number in range(num_arrays):
        bits = rng.integers(0, 2**30, (rows, width), np.uint32)  # finite ones
        tree[f"array-{number}"] = jax.device_put(bits.view(np.float32), cut)
    return jax.block_until_ready(tree)


def size_of(tree: NamedArrays) -> int:
    """Returns the bytes of all arrays."""
    return sum(array.nbytes for array in tree.values())


@dataclass(frozen=True)
class Way:
    """One way to do one kind of work; it stops the clock for everything else."""

    name: str
    work: str
    run: Callable[[], None]


class Steps:
    """A state that steps change in place, as a train step does: they donate it."""

    def __init__(self, tree: NamedArrays) -> None:
        self._tree = tree
        self._step = jax.jit(
            lambda tree: {name: -x for name, x in tree.items()}, donate_argnums=0
        )

    @cached_property
    def state(self) -> NamedArrays:
        """The state, at first a copy of the tree."""
        return jax.block_until_ready(jax.tree.map(jnp.copy, self._tree))

    def step(self) -> None:
        """Waits for one step."""
        self.__dict__["state"] = jax.block_until_ready(self._step(self.state))

    def way(self) -> Way:
        """Returns a step without a save."""
        return Way(RAW, STEP, self.step)


class OurCheckpoints:
    """Checkpoints of EqIDs."""

    def __init__(
        self, folder: Path, tree: NamedArrays, clock: Stoppable, steps: Steps
    ) -> None:
        self._folder, self._tree, self._clock = folder, tree, clock
        self._steps = steps
        self._like = _like(tree)
        self._step = 0
        self._saver: Saver | None = None

    @property
    def kept(self) -> Path:
        """A checkpoint to read, written once for all processes."""
        path = self._folder / "kept" / "0"
        return path if path.exists() else save(path.parent, 0, self._tree, {})

    def ways(self) -> list[Way]:
        """Returns the ways to save, and to read what was saved."""
        return [
            Way(OURS, SAVE, self._save),
            Way(OURS, BEGIN, self._begin),
            Way(OURS, KEPT, lambda: self._begin(keep=True)),
            Way(OURS, SAVE_STEP, lambda: self._begin(steps=self._steps)),
            Way(OURS, RESTORE, lambda: self._restore(cold=True)),
            Way(OURS, WARM, lambda: self._restore(cold=False)),
            Way(OURS, VERIFY, lambda: self._verify(cold=True)),
            Way(OURS, VERIFY_WARM, lambda: self._verify(cold=False)),
        ]

    def close(self) -> None:
        """Ends saves in the background."""
        if self._saver is not None:
            self._saver.__exit__(None, None, None)

    def _save(self) -> None:
        path = save(self._folder / "saved", self._next(), self._tree, {})
        with self._clock.stopped():
            shutil.rmtree(path)

    def _begin(self, *, keep: bool = False, steps: Steps | None = None) -> None:
        if self._saver is None:
            self._saver = Saver(self._folder / "begun")
        step = self._next()
        tree = self._tree if steps is None else steps.state
        self._saver.save(step, tree, {}, keep=keep)
        if steps is not None:
            steps.step()
        with self._clock.stopped():
            self._saver.wait()
            shutil.rmtree(self._folder / "begun" / str(step))

    def _next(self) -> int:
        self._step += 1
        return self._step

    def _restore(self, cold: bool) -> None:
        with self._clock.stopped():
            ready(self.kept, cold)
        got = restore(self.kept, self._like)
        jax.block_until_ready(got)
        with self._clock.stopped():
            _compare(got, self._tree)

    def _verify(self, cold: bool) -> None:
        with self._clock.stopped():
            ready(self.kept, cold)
        problems = verify(self.kept)
        assert not problems, problems


class OrbaxCheckpoints:
    """Checkpoints of Orbax, with its defaults."""

    def __init__(
        self, folder: Path, tree: NamedArrays, clock: Stoppable, steps: Steps
    ) -> None:
        orbax = importlib.import_module("orbax.checkpoint")
        self._folder, self._tree, self._clock = folder.absolute(), tree, clock
        self._steps = steps
        self._saver = orbax.StandardCheckpointer()
        self._like = _like(tree)

    def ways(self) -> list[Way]:
        """Returns the ways to save, and to read what was saved."""
        return [
            Way(ORBAX, SAVE, lambda: self._save(waits=True)),
            Way(ORBAX, BEGIN, lambda: self._save(waits=False)),
            Way(ORBAX, SAVE_STEP, lambda: self._save(waits=False, steps=self._steps)),
            Way(ORBAX, RESTORE, lambda: self._restore(cold=True)),
            Way(ORBAX, WARM, lambda: self._restore(cold=False)),
        ]

    def close(self) -> None:
        """Ends saves in the background."""
        self._saver.close()

    def _save(self, waits: bool, steps: Steps | None = None) -> None:
        path = self._folder / "orbax-saved"
        self._saver.save(path, self._tree if steps is None else steps.state)
        if steps is not None:
            steps.step()
        if waits:
            self._saver.wait_until_finished()
        with self._clock.stopped():
            self._saver.wait_until_finished()
            shutil.rmtree(path)

    @property
    def kept(self) -> Path:
        """A checkpoint to read, written once for all processes."""
        path = self._folder / "orbax-kept"
        if not path.exists():
            self._saver.save(path, self._tree)
            self._saver.wait_until_finished()
        return path

    def _restore(self, cold: bool) -> None:
        with self._clock.stopped():
            path = self.kept
            ready(path, cold)
        got = self._saver.restore(path, self._like)
        jax.block_until_ready(got)
        with self._clock.stopped():
            _compare(got, self._tree)


def copying(source: Path, folder: Path, clock: Stoppable) -> list[Way]:
    """Returns ways to copy the files of a checkpoint and sync them to the disk, and to
    read them without keeping them."""
    target = folder / "copied"

    def read(cold: bool) -> None:
        with clock.stopped():
            ready(source, cold)
        read_all(source)

    def copy(cold: bool) -> None:
        with clock.stopped():
            ready(source, cold)
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for path in [*target.rglob("*"), target]:
            _with(path, os.fsync)
        with clock.stopped():
            shutil.rmtree(target)

    return [
        Way(RAW, COPY, lambda: copy(cold=False)),
        Way(RAW, COPY_COLD, lambda: copy(cold=True)),
        Way(RAW, READ, lambda: read(cold=False)),
        Way(RAW, READ_COLD, lambda: read(cold=True)),
    ]


def has_orbax() -> bool:
    """Returns whether Orbax is installed."""
    try:
        importlib.metadata.version("orbax-checkpoint")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def can_forget() -> bool:
    """Returns whether this system can drop a file from memory."""
    return hasattr(os, "posix_fadvise")


def read_all(folder: Path) -> None:
    """Reads the files of a folder on all cores, and keeps nothing."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(_read, files))


def _read(path: Path) -> None:
    block = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def ready(folder: Path, cold: bool) -> None:
    """Brings the files of a folder into memory or, if `cold`, drops them from it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if not cold:
            _read(path)
        elif can_forget():
            _with(path, os.fsync)
            _with(path, lambda f: os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED))


def _with(path: Path, use: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        use(descriptor)
    finally:
        os.close(descriptor)


def _like(tree: NamedArrays) -> Any:
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in tree.items()
    }


def _compare(got: NamedArrays, tree: NamedArrays) -> None:
    for name, array in tree.items():
        pairs: Sequence[Any] = list(
            zip(got[name].addressable_shards, array.addressable_shards, strict=True)
        )
        same = all(np.array_equal(one.data, two.data) for one, two in pairs)
        assert same, f"{name} was not restored"
