"""Checkpoints that are whole or not there: save, restore, verify, keep the best.

    DIRECTORY/200/manifest.json           what is in it (eqids.checkpoints.manifest)
                  manifest.json.sha256    the manifest's guard
                  arrays/0-0/…            values (eqids.checkpoints.store)
    DIRECTORY/.300.partial                a save that is not done, or was killed

A step is written as `.STEP.partial`, synced file by file and renamed last: a folder
that is named by a number is complete, always.

What restoring trusts: nothing but the manifest, which its guard vouches for. It
holds a SHA-256 for every chunk of every array, so each process checks just what it
reads (its own shards, on any mesh), a swapped file or array cannot pass for the
right one, and no pass over whole files is needed. Files also have a size, compared
before anything is read, and a SHA-256, compared by `verify`.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from eqids.checkpoints.agreement import of_all_processes, together
from eqids.checkpoints.chunk_owners import Target
from eqids.checkpoints.chunks import num_chunks, whole
from eqids.checkpoints.leaves import leaf_name, match
from eqids.checkpoints.manifest import (
    FORMAT_VERSION,
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
from eqids.checkpoints.reader import Reader
from eqids.checkpoints.retention import (
    partial_folder,
    partials,
)
from eqids.checkpoints.store import Shard, Written, write_parts
from eqids.config import UserError, require
from eqids.io.atomic import sync
from sharding import is_first

Tree = TypeVar("Tree", bound=PyTree)


def check_absent(target: Path) -> None:
    """Raises UserError where a step is there already."""
    require(
        not target.exists(),
        f"{step_label(target)} exists already, wanted a step that was not saved yet "
        "or another folder",
    )


def write_step(
    directory: Path,
    step: int,
    records: Mapping[str, ArrayRecord],
    shards: list[Shard],
    meta: Mapping[str, Any],
) -> None:
    """Writes a checkpoint: all of it, or nothing that anyone would take for one.

    All processes call it, in the folder that their run holds. Partial folders that a
    killed run left there are removed first.

    Args:
        directory: the run's folder.
        step: the training step, which names the checkpoint.
        records: of all arrays, their `chunks` still empty.
        shards: what this process is to write; emptied on the way.
        meta: facts to keep with them, as JSON values; see `Manifest.meta`.

    Raises:
        UserError: the disk refused, here or in another process.
    """
    target, partial = directory / str(step), partial_folder(directory, step)
    first = is_first()
    try:
        with together(f"{target} begins"):
            if first:
                _begin(directory, partial)
        with together(f"{target} is written"):
            written = write_parts(partial, shards)
        written = of_all_processes(partial, written)
        with together(f"{target} is there"):
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
    path: Path, like: Tree, prefix: str = "", shapes: PyTree | None = None
) -> Tree:
    """Reads a checkpoint's arrays into the structure and places of `like`.

    Args:
        path: the checkpoint, DIR/STEP.
        like: arrays or `ShapeDtypeStruct`s. A leaf's `sharding`, whatever the mesh
            it was saved from, says where the array goes; without one it goes to the
            default device. NumPy arrays come back as NumPy arrays.
        prefix: restores only what lies below this name, as `like`'s root:
            `restore(path, params, prefix="params")`.
        shapes: a tree like `like` of the shapes that are stored, as for `save`.

    Returns:
        A tree like `like`, every value equal to the bit to the one saved, and zeros
        past the shapes that are stored.

    Raises:
        UserError: an array is missing, surplus, misshapen, of another dtype or
            damaged, or a file is missing or damaged; it names step and array or file.
    """
    manifest = read_manifest(path)
    raise_first(size_problems(path, manifest))
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    wanted = {leaf_name(route, prefix): leaf for route, leaf in paths}
    sizes = jax.tree.leaves(like if shapes is None else shapes)
    match(step_label(path), manifest, dict(zip(wanted, sizes, strict=True)), prefix)
    targets = [
        Target.of(name, manifest.arrays[name], leaf) for name, leaf in wanted.items()
    ]
    with Reader(path, manifest) as reader:
        boxes = [(target.name, box) for target in targets for box in target.boxes]
        values = reader.read_each(boxes)
        leaves = [target.take(values) for target in targets]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def verify(path: Path, advance: Callable[[int], None] | None = None) -> list[str]:
    """Reads and hashes every file and every array of a checkpoint.

    Args:
        path: the checkpoint, DIR/STEP.
        advance: hears of bytes as they are checked (files, then arrays).

    Returns:
        One sentence for each problem, naming step and array or file; none if sound.
    """
    try:
        manifest = read_manifest(path)
    except UserError as error:
        return [str(error)]
    surplus = files_below(path).keys() - manifest.files.keys()
    problems = [
        f"{step_label(path)}: file {name} is not in the manifest"
        for name in sorted(surplus)
    ]
    problems += size_problems(path, manifest)
    problems += content_problems(path, manifest, advance=advance)
    with Reader(path, manifest) as reader:
        for name, record in manifest.arrays.items():
            try:
                reader.read(name, whole(record), advance)
            except UserError as error:
                problems.append(str(error))
    return problems


def _reason(error: Exception) -> str:
    """What the system said, where tensorstore wraps it in a report of its own."""
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
    whole = {}
    for name, record in records.items():
        chunks = (written.chunks[name, n] for n in range(num_chunks(record)))
        whole[name] = dataclasses.replace(record, chunks=tuple(chunks))
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(FORMAT_VERSION, step, saved, whole, written.files, meta)


def _commit(partial: Path, target: Path, manifest: Manifest) -> None:
    write_manifest(partial, manifest)
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    partial.rename(target)
    sync(target.parent)
