"""Checkpoints that are whole or not there: save, restore, verify, keep the best.

    DIRECTORY/200/manifest.json           what is in it (eqids.fit.manifest)
                  manifest.json.sha256    the manifest's guard
                  arrays/0-0/…            values (eqids.fit.store)
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
import functools
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from eqids.config import UserError, require
from eqids.fit import store
from eqids.fit.chunks import num_chunks, whole
from eqids.fit.manifest import (
    FORMAT_VERSION,
    ArrayRecord,
    FileRecord,
    Manifest,
    content_problems,
    file_sha256,
    files_below,
    raise_first,
    read_manifest,
    size_problems,
    step_label,
    write_manifest,
)
from eqids.fit.reader import Reader, read_sharded
from eqids.fit.steps import (
    best_step,
    latest_step,
    partial_folder,
    partials,
    prune,
    resolve,
    steps,
)

__all__ = [
    "Manifest", "best_step", "latest_step", "partials", "prune", "read_manifest",
    "resolve", "restore", "save", "steps", "verify",
]  # fmt: skip

Tree = TypeVar("Tree", bound=PyTree)
Stored = tuple[jax.Array | np.ndarray, str | None]
"""An array to store, and its generator's name if it is the data of random keys."""


def save(
    directory: Path, step: int, tree: PyTree[jax.Array], meta: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint: all of it, or nothing that anyone would take for one.

    Sharded arrays are written shard by shard and never gathered. Partial folders
    that a killed save left in `directory` are removed first.

    Args:
        directory: the run's folder, made if it does not exist.
        step: the training step, which names the checkpoint.
        tree: arrays (any shape, typed random keys too); None leaves are nothing.
        meta: facts to keep with them, as JSON values; see `Manifest.meta`.

    Returns:
        The checkpoint's folder, `directory/step`.

    Raises:
        UserError: the step is there already, or the disk refused.
    """
    target, partial = directory / str(step), partial_folder(directory, step)
    require(
        not target.exists(),
        f"{step_label(target)} exists already, wanted a step that was not saved yet "
        "or another folder",
    )
    arrays = _data(tree)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in partials(directory):
            shutil.rmtree(leftover)
        partial.mkdir()
        _write(partial, step, arrays, meta)
        partial.rename(target)
        _sync(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"{step_label(target)} could not be saved: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def restore(path: Path, like: Tree, prefix: str = "") -> Tree:
    """Reads a checkpoint's arrays into the structure and places of `like`.

    Args:
        path: the checkpoint, DIR/STEP.
        like: arrays or `ShapeDtypeStruct`s. A leaf's `sharding`, whatever the mesh
            it was saved from, says where the array goes; without one it goes to the
            default device. NumPy arrays come back as NumPy arrays.
        prefix: restores only what lies below this name, as `like`'s root:
            `restore(path, params, prefix="params")`.

    Returns:
        A tree like `like`, every value equal to the bit to the one saved.

    Raises:
        UserError: an array is missing, surplus, misshapen, of another dtype or
            damaged, or a file is missing or damaged; it names step and array or file.
    """
    manifest = read_manifest(path)
    raise_first(size_problems(path, manifest))
    paths, treedef = jax.tree_util.tree_flatten_with_path(like)
    wanted = {_name(route, prefix): leaf for route, leaf in paths}
    _match(step_label(path), manifest, wanted, prefix)
    with Reader(path, manifest) as reader:
        leaves = [
            _place(reader, name, manifest.arrays[name], leaf)
            for name, leaf in wanted.items()
        ]
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


def _name(route: Any, prefix: str) -> str:
    name = jax.tree_util.keystr(route, simple=True, separator="/")
    return "/".join(part for part in (prefix, name) if part)


def _data(tree: PyTree) -> dict[str, Stored]:
    arrays: dict[str, Stored] = {}
    for route, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _name(route, "")
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(
                f"leaf {name!r} is a {type(leaf).__name__}, wanted an array"
            )
        if name in arrays:
            raise ValueError(f"two leaves are named {name!r}")
        if _is_key(leaf):
            impl = str(jax.random.key_impl(leaf))
            arrays[name] = (jax.random.key_data(leaf), impl)
        else:
            arrays[name] = (leaf, None)
    return arrays


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write(
    partial: Path,
    step: int,
    arrays: Mapping[str, Stored],
    meta: Mapping[str, Any],
) -> None:
    records = {name: store.describe(*stored) for name, stored in arrays.items()}
    blocks = (
        block
        for name, (array, _) in arrays.items()
        for block in store.blocks(name, records[name], array)
    )
    chunks = store.write_parts(partial, blocks)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        step=step,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
        arrays={
            name: dataclasses.replace(
                record,
                chunks=tuple(chunks[name, n] for n in range(num_chunks(record))),
            )
            for name, record in records.items()
        },
        files={
            name: FileRecord(path.stat().st_size, file_sha256(path))
            for name, path in files_below(partial).items()
        },
        meta=meta,
    )
    write_manifest(partial, manifest)
    for path in [*partial.rglob("*"), partial]:
        _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _match(
    label: str, manifest: Manifest, wanted: Mapping[str, Any], prefix: str
) -> None:
    for name, leaf in wanted.items():
        record = manifest.arrays.get(name)
        require(
            record is not None,
            f"{label}: no array {name!r}, wanted {_form(leaf)}",
        )
        stored = _form(_logical(record))
        require(
            stored == _form(leaf),
            f"{label}: array {name!r} is {stored}, wanted {_form(leaf)}",
        )
    for name in manifest.arrays:
        below = not prefix or name == prefix or name.startswith(f"{prefix}/")
        require(
            not below or name in wanted,
            f"{label}: array {name!r} is stored but not wanted here",
        )


def _form(leaf: Any) -> str:
    """Dtype and shape as text: float32[3, 4], key<fry>[8]."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _logical(record: ArrayRecord) -> jax.ShapeDtypeStruct:
    stored = jax.ShapeDtypeStruct(record.shape, jax.numpy.dtype(record.dtype))
    if record.key is None:
        return stored
    return jax.eval_shape(
        functools.partial(jax.random.wrap_key_data, impl=record.key), stored
    )


def _place(reader: Reader, name: str, record: ArrayRecord, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return reader.read(name, whole(record))
    sharding = like.sharding
    if sharding is None:
        array = jax.device_put(reader.read(name, whole(record)))
    else:
        array = read_sharded(reader, name, record, sharding)
    return (
        array
        if record.key is None
        else jax.random.wrap_key_data(array, impl=record.key)
    )
