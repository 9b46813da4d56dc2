"""Damage one thing in a checkpoint of a real run, and check that it is detected."""

import io
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from kills import logged
from runs import small

from eqids import train
from eqids.checkpoints import (
    DamageError,
    chunks,
    damaged,
    read_manifest,
    restore,
    steps,
    store,
    verify,
)

FLIPPED, TRUNCATED = "one bit flipped", "cut short"
DELETED, SWAPPED = "deleted", "another step's"

IN_NODES, IN_CHUNKS = "OCDBT data, in a node", "OCDBT data, in a chunk of values"
_DATA = "OCDBT data"
_FILES = {
    "manifest.json": "manifest.json",
    "manifest.json.sha256": "manifest.json.sha256",
    "OCDBT manifest": "arrays/*/manifest.ocdbt",
    _DATA: "arrays/*/d/*",
}
"""Kinds of files in a checkpoint."""

CASES: Sequence[tuple[str, str]] = (
    *((kind, FLIPPED) for kind in (*list(_FILES)[:3], IN_NODES, IN_CHUNKS)),
    *((kind, damage) for damage in (TRUNCATED, DELETED, SWAPPED) for kind in _FILES),
)
"""What is damaged, and how."""

_STEPS = (10, 20, 30)
_LAST = 40


@dataclass(frozen=True)
class Corruption:
    """One thing that was damaged, which was detected."""

    kind: str
    """The kind of file."""
    damage: str
    """What was done to it."""
    resumed: bool
    """Whether a run was resumed from it as well."""


def corruption_sweep(
    data: Path,
    folder: Path,
    num_corruptions: int,
    num_resumed: int,
    seed: int,
    *,
    report: Callable[[str], None] = lambda text: None,
) -> list[Corruption]:
    """Damages checkpoints of a run, one thing at a time, of every kind in turn.

    `verify` and `restore` must refuse each, and name step and array or file. A run that
    resumes must report it, set the step aside, resume from the step before, and reach
    the losses and weights of an undamaged run, to the bit.

    Args:
        data: the dataset folder.
        folder: an empty folder.
        num_corruptions: how many.
        num_resumed: how many of them a run is resumed from.
        seed: of the damaged bytes.
        report: called with a message for every corruption.

    Raises:
        AssertionError: a corruption was not detected.
    """
    rng, found = random.Random(seed), list[Corruption]()
    run, whole = folder / "run", folder / "whole"
    resumed = set(rng.sample(range(num_corruptions), num_resumed))
    with pytest.MonkeyPatch.context() as patch:
        # Several parts, and chunks outside of OCDBT's nodes, also in a run this small.
        patch.setattr(chunks, "_CHUNK_BYTES", 32 << 10)
        patch.setattr(store, "_PART_BYTES", 512 << 10)
        # Some chunks are read with tensorstore, and some without.
        patch.setattr(store, "_ALONE_BYTES", 24 << 10)
        _train(data, run, "--stop_at", str(_STEPS[-1]))
        _train(data, whole)
        for number in range(num_corruptions):
            kind, damage = CASES[number % len(CASES)]
            step, other = rng.sample(_STEPS, 2)
            if number in resumed:
                step, other = _STEPS[-1], _STEPS[0]
            path = run / str(step)
            like = _like(path)
            file, content = _damage(path, run / str(other), kind, damage, rng)
            what = f"{number}, seed {seed}: {kind} {damage}: {file.relative_to(run)}"
            good = file.read_bytes()
            file.unlink() if content is None else file.write_bytes(content)
            assert_detected(path, like, what)
            if number in resumed:
                _assert_older_step_serves(data, run, whole, folder / f"{number}", what)
            file.write_bytes(good)
            found.append(Corruption(kind, damage, number in resumed))
            report(what)
        for step in _STEPS:  # repaired, they are sound again
            restore(run / str(step), _like(run / str(step)))
    return found


def assert_detected(path: Path, tree: Any, what: str) -> None:
    """Requires that a damaged checkpoint is refused, and that the message says why."""
    problems = verify(path)
    assert problems, f"verify saw nothing: {what}"
    with pytest.raises(DamageError) as caught:
        restore(path, tree)
        pytest.fail(f"restore saw nothing: {what}")
    for text in (*problems, str(caught.value)):
        assert text.startswith(f"step {path.name} of {path.parent}: "), text
        assert "array" in text or "file" in text or "manifest" in text, text


def flip(data: bytes, rng: random.Random, places: Sequence[int] | None = None) -> bytes:
    """Returns the data with one bit changed, in one of some bytes."""
    place = rng.choice(range(len(data)) if places is None else places)
    changed = bytes([data[place] ^ 1 << rng.randrange(8)])
    return data[:place] + changed + data[place + 1 :]


def _train(data: Path, run: Path, *more: str) -> str:
    """Runs the command to the last step; returns what it prints on both streams."""
    flags = "--num_steps 40 --save_every 10 --keep 4 --log_every 1".split()
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        train.main(small(data, run, *flags, *more))
    return said.getvalue()


def _damage(
    path: Path, other: Path, kind: str, damage: str, rng: random.Random
) -> tuple[Path, bytes | None]:
    """Returns a file of a checkpoint and its new content; None to delete it."""
    in_data = kind in (IN_NODES, IN_CHUNKS)
    pattern = _FILES[_DATA if in_data else kind]
    files, twins = (sorted(folder.glob(pattern)) for folder in (path, other))
    file, twin = rng.choice(list(zip(files, twins, strict=True)))
    data = file.read_bytes()
    if damage == DELETED:
        return file, None
    if damage == TRUNCATED:
        return file, data[: rng.randrange(len(data))]
    if damage == SWAPPED:
        return file, twin.read_bytes()
    if not in_data:
        return file, flip(data, rng)
    of_chunk = _is_of_chunk(path, data)
    return file, flip(
        data, rng, np.flatnonzero(of_chunk == (kind == IN_CHUNKS)).tolist()
    )


def _is_of_chunk(path: Path, data: bytes) -> np.ndarray:
    """Returns for every byte of a data file whether a chunk outside of nodes has it."""
    inside = np.zeros(len(data), bool)
    tree, manifest = restore(path, _like(path)), read_manifest(path)
    for name, record in manifest.arrays.items():
        for _, box in chunks.chunks_in(record, chunks.whole(record)):
            raw = np.ascontiguousarray(tree[name][box]).tobytes()
            if len(raw) + 4 <= store._INLINE_BYTES:  # with its CRC-32C
                continue
            at = data.find(raw)
            while at >= 0:
                inside[at : at + len(raw) + 4] = True
                at = data.find(raw, at + len(raw))
    assert inside.any() and not inside.all()
    return inside


def _like(path: Path) -> dict[str, Any]:
    """Returns host arrays of the shapes that a checkpoint holds, by name."""
    return {
        name: np.empty(record.shape, jax.numpy.dtype(record.dtype))
        for name, record in read_manifest(path).arrays.items()
    }


def _assert_older_step_serves(
    data: Path, run: Path, whole: Path, copy: Path, what: str
) -> None:
    """Resumes a run whose newest step is damaged."""
    shutil.copytree(run, copy)
    *_, before, newest = steps(copy)
    said = _train(data, copy)
    assert f"step {newest} of {copy}: " in said, (what, said)
    assert f"it is set aside as {copy / str(newest)}.damaged" in said, (what, said)
    assert f"going on from step {before}, " in said, (what, said)
    assert [path.name for path in damaged(copy)] == [f"{newest}.damaged"]
    wanted = dict(logged(whole))
    for key, values in logged(copy):
        assert values == wanted[key], (what, key)
    one, two = (read_manifest(f / str(_LAST)).arrays for f in (copy, whole))
    assert one == two, what
