"""Writes, restores and verifies the folder of one step.

    DIRECTORY/200/manifest.json           what the folder holds (manifest.py)
                  manifest.json.sha256    the manifest's guard
                  arrays/0-0/…            the values (store.py)
    DIRECTORY/.300.partial                a save that runs, or that was killed

A step is written as `.STEP.partial`, every file is synced, and the folder is renamed
last: a folder named by a number is always complete.

A restore trusts only the manifest, which its guard protects. The manifest holds a
digest of every chunk of every array. So each process compares exactly what it reads
(its own shards, on any mesh), detects swapped files and arrays, and needs no extra pass
over whole files. Every file also has a size, which is compared before anything is read,
and a digest, which `verify` compares.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from eqids.checkpoints.chunks import num_chunks
from eqids.checkpoints.leaves import leaf_name, match
from eqids.checkpoints.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    ArrayRecord,
    Manifest,
    content_problems,
    files_below,
    raise_first,
    read_manifest,
    size_problems,
    step_label,
    write_manifest,
)
from eqids.checkpoints.multiprocess import all_or_none, collect_written
from eqids.checkpoints.reader import Reader
from eqids.checkpoints.restore_plan import ArrayPlan
from eqids.checkpoints.retention import partial_folder, partials
from eqids.checkpoints.store import Shard, Written, write_parts
from eqids.config import UserError, require
from eqids.io.atomic import sync
from eqids.io.digests import ReportBytes
from sharding import is_first

Restored = TypeVar("Restored", bound=PyTree)
"""A tree of arrays, and the tree that is restored like it."""


def check_absent(target: Path) -> None:
    """Raises `UserError` if a step's folder exists."""
    require(
        not target.exists(),
        f"{step_label(target)} exists already, wanted a step that is not saved yet, "
        "or another --checkpoint_dir",
    )


def write_step(
    directory: Path,
    step: int,
    records: Mapping[str, ArrayRecord],
    shards: list[Shard],
    meta: Mapping[str, Any],
) -> None:
    """Writes a checkpoint atomically.

    All processes of a run call it. Partial folders of a killed run are removed first.

    Args:
        directory: the run's folder, which the run has locked.
        step: the training step, which names the checkpoint.
        records: the records of all arrays, with `chunks` still empty.
        shards: what this process writes; the list is emptied.
        meta: JSON values to record; see `Manifest.meta`.

    Raises:
        UserError: the save failed, in this process or in another.
    """
    target, partial = directory / str(step), partial_folder(directory, step)
    first = is_first()
    try:
        with all_or_none(f"{target} begins"):
            if first:
                _begin(directory, partial)
        with all_or_none(f"{target} is written"):
            written = write_parts(partial, shards)
        written = collect_written(partial, written)
        with all_or_none(f"{target} is renamed"):
            if first:
                _commit(partial, target, _manifest(step, records, written, meta))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{step_label(target)} could not be saved: {_reason(error)}"
        ) from error
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)


def restore(
    path: Path, like: Restored, prefix: str = "", shapes: PyTree | None = None
) -> Restored:
    """Reads a checkpoint's arrays into the structure and shardings of `like`.

    Args:
        path: the checkpoint, DIR/STEP.
        like: arrays or `ShapeDtypeStruct`s. An array gets the leaf's `sharding`,
            whatever mesh it was saved from; without a sharding it goes to the
            default device. NumPy arrays are restored as NumPy arrays.
        prefix: restores only the arrays below this name, which is the root of `like`:
            `restore(path, params, prefix="params")`.
        shapes: a tree of the same structure with the stored shapes, as for `save`.

    Returns:
        A tree like `like`, every value equal to the saved one to the bit, and zeros
        past the stored shapes.

    Raises:
        UserError: an array is missing, surplus or damaged, or has another shape or
            dtype; or a file is missing or damaged. The message names step and array
            or file.
    """
    manifest = read_manifest(path)
    raise_first(size_problems(path, manifest))
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    wanted = {leaf_name(route, prefix): leaf for route, leaf in paths}
    sizes = jax.tree.leaves(like if shapes is None else shapes)
    match(step_label(path), manifest, dict(zip(wanted, sizes, strict=True)), prefix)
    plans = [
        ArrayPlan.of(name, manifest.arrays[name], leaf) for name, leaf in wanted.items()
    ]
    with Reader(path, manifest) as reader:
        boxes = [(plan.name, box) for plan in plans for box in plan.boxes]
        values = reader.read_each(boxes)
        leaves = [plan.assemble(values) for plan in plans]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def verify(path: Path, advance: ReportBytes | None = None) -> list[str]:
    """Reads every byte of a checkpoint once, and compares all digests.

    Args:
        path: the checkpoint, DIR/STEP.
        advance: called with the bytes that were read (files first, then the arrays'
            values).

    Returns:
        One sentence for each problem, naming step and array or file.
    """
    try:
        manifest = read_manifest(path)
    except UserError as error:
        return [str(error)]
    surplus = files_below(path).keys() - manifest.files.keys()
    problems = [
        f"{step_label(path)}: file {name} is not in {MANIFEST}"
        for name in sorted(surplus)
    ]
    problems += size_problems(path, manifest)
    problems += content_problems(path, manifest, advance=advance)
    with Reader(path, manifest) as reader:
        return problems + reader.problems(advance)


def _reason(error: Exception) -> str:
    """Returns the operating system's message, which tensorstore wraps in a report."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error)


def _begin(directory: Path, partial: Path) -> None:
    for leftover in partials(directory):
        shutil.rmtree(leftover)
    partial.mkdir()


def _manifest(
    step: int,
    records: Mapping[str, ArrayRecord],
    written: Written,
    meta: Mapping[str, Any],
) -> Manifest:
    arrays = {}
    for name, record in records.items():
        chunks = (written.chunks[name, n] for n in range(num_chunks(record)))
        arrays[name] = dataclasses.replace(record, chunks=tuple(chunks))
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(FORMAT_VERSION, step, saved, arrays, written.files, meta)


def _commit(partial: Path, target: Path, manifest: Manifest) -> None:
    write_manifest(partial, manifest)
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    partial.rename(target)
    sync(target.parent)
