"""Writes dataset folders atomically."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from eqids.config import UserError, require, to_json
from eqids.data.catalog.lineage import Lineage
from eqids.data.dataset import Dataset
from eqids.data.files import (
    CLUSTERS_FILE,
    DATA_FILES,
    HISTORIES_FILE,
    ITEM_COLUMNS,
    ITEM_FLAG,
    ITEMS_FILE,
    LINEAGE_FILE,
    SUCCESSORS_FILE,
    USER_COLUMNS,
    USERS_FILE,
    data_files,
    is_cache,
    is_kept_cache,
    write_parquet,
    write_tensors,
)
from eqids.data.info import INFO_FILE, DatasetInfo, render_info, with_hashes
from eqids.data.read import open_dataset
from eqids.io.atomic import new_folder, sync
from eqids.io.digests import array_bytes, file_digest


def write_dataset(
    path: Path,
    info: DatasetInfo,
    histories: Mapping[str, np.ndarray],
    users: pa.Table,
    items: pa.Table,
    item_vectors: np.ndarray,
    overwrite: bool = False,
    lineage: Lineage | None = None,
) -> Dataset:
    """Writes a dataset folder atomically, and opens it.

    Args:
        path: the folder.
        info: everything but the hashes, which are filled in.
        histories: slots int32 [event], times int64 [event] (or left out), offsets
            int64 [user + 1].
        users: columns user, train_length, valid_at, test_at.
        items: columns item, slot, title, text and count, and retired if any item is;
            in any order of slots.
        item_vectors: float32 [item, vector_width], in the order of `items`.
        overwrite: whether an existing dataset folder is replaced.
        lineage: the versions of the catalog, if it has more than one.

    Raises:
        UserError: the folder exists and may not be replaced, or the arguments make
            no valid dataset.
    """
    check_target(path, overwrite)
    with new_folder(path, replace=overwrite) as partial:
        _write_files(partial, info, histories, users, items, item_vectors, lineage)
        _keep_caches(path, partial)
        dataset = _with_successors(open_dataset(partial))
        _sync_files(partial)
    sync(path.resolve().parent)
    # All of it was checked; a mapped file is the same under its new name.
    return replace(dataset, path=Path(path))


def _write_files(
    folder: Path,
    info: DatasetInfo,
    histories: Mapping[str, np.ndarray],
    users: pa.Table,
    items: pa.Table,
    item_vectors: np.ndarray,
    lineage: Lineage | None,
) -> None:
    if ITEM_FLAG not in items.column_names:
        none_retired = np.zeros(items.num_rows, np.bool_)
        items = items.append_column(ITEM_FLAG, pa.array(none_retired))
    order = np.argsort(items["slot"].to_numpy())
    items, item_vectors = items.take(order), item_vectors[order]
    users = _user_table(users, histories["offsets"])
    write_parquet(folder / ITEMS_FILE, items.select(ITEM_COLUMNS))
    write_parquet(folder / USERS_FILE, users)
    write_tensors(folder / HISTORIES_FILE, histories)
    write_tensors(folder / CLUSTERS_FILE, _places(info, items, item_vectors))
    if lineage is not None and info.catalog_version > 1:
        write_tensors(folder / LINEAGE_FILE, lineage.to_arrays())
    catalog = catalog_id(items, info)
    content = _dataset_hash(info, catalog, histories, users)
    names = data_files(info.catalog_version)
    files = {name: file_digest(folder / name) for name in names}
    info = with_hashes(info, catalog, content, files)
    (folder / INFO_FILE).write_text(render_info(info), encoding="utf-8")


def _keep_caches(old: Path, new: Path) -> None:
    """Links the caches of a dataset folder that its next version keeps."""
    for file in old.iterdir() if old.is_dir() else ():
        if is_kept_cache(file.name):
            try:
                os.link(file, new / file.name)
            except OSError:  # a file system without links
                shutil.copyfile(file, new / file.name)


def check_target(path: Path, overwrite: bool) -> None:
    """Requires that a dataset may be written at `path`.

    Raises:
        UserError: the folder cannot be written, exists and `overwrite` is false, or
            holds other files than a dataset's.
    """
    parent = next(above for above in path.resolve().parents if above.exists())
    try:
        tempfile.TemporaryDirectory(prefix=".eqids-", dir=parent).cleanup()
    except OSError as error:
        raise UserError(
            f"{parent} is not a folder that can be written to ({error.strerror}), so "
            f"{path} cannot be made"
        ) from None
    require(not path.exists() or path.is_dir(), f"{path} is a file, wanted a folder")
    names = {file.name for file in path.iterdir()} if path.exists() else set()
    require(
        not names or overwrite,
        f"{path} exists already: add --overwrite to replace it, or choose another "
        "--data_dir",
    )
    own = {INFO_FILE, *DATA_FILES, LINEAGE_FILE, SUCCESSORS_FILE}
    own |= {name for name in names if is_cache(name) or is_kept_cache(name)}
    strange = sorted(names - own)
    require(
        not strange,
        f"{path} holds {strange[0] if strange else ''!r}, which is no dataset's file, "
        "so the folder is not replaced: choose another --data_dir",
    )


def catalog_id(items: pa.Table, info: DatasetInfo) -> str:
    """Returns the hash of the item ids by slot and of the retired items."""
    # Checkpoints record ids that were hashed with this word, so it must not change.
    digest = hashlib.sha256(f"room {info.cluster_size}\n".encode())
    if info.catalog_version > 1:
        version = f"version {info.catalog_version}, {info.num_clusters} clusters"
        digest.update(f"{version}\n".encode())
    columns = (items[name].to_pylist() for name in ("slot", "item", ITEM_FLAG))
    for slot, item, retired in zip(*columns, strict=True):
        mark = "\tretired" if retired else ""
        digest.update(f"{slot}\t{json.dumps(item, default=str)}{mark}\n".encode())
    return digest.hexdigest()


def _dataset_hash(
    info: DatasetInfo,
    catalog: str,
    histories: Mapping[str, np.ndarray],
    users: pa.Table,
) -> str:
    digest = hashlib.sha256(catalog.encode())
    digest.update(json.dumps(to_json(info.protocol), sort_keys=True).encode())
    for name in sorted(histories):
        digest.update(name.encode())
        digest.update(array_bytes(histories[name]))
    for name in USER_COLUMNS[1:]:
        digest.update(np.ascontiguousarray(users[name].to_numpy()).tobytes())
    return digest.hexdigest()


def _user_table(users: pa.Table, offsets: np.ndarray) -> pa.Table:
    columns = {
        "user": users["user"],
        "offset": offsets[:-1],
        "length": np.diff(offsets).astype(np.int32),
        "train_length": users["train_length"],
        "valid_at": users["valid_at"],
        "test_at": users["test_at"],
    }
    return pa.table(columns).select(USER_COLUMNS)


def _places(
    info: DatasetInfo, items: pa.Table, item_vectors: np.ndarray
) -> dict[str, np.ndarray]:
    slots = items["slot"].to_numpy()
    shape = (info.num_clusters, info.cluster_size)
    num_slots = info.num_clusters * info.cluster_size
    valid = np.zeros(num_slots, np.bool_)
    counts = np.zeros(num_slots, np.int64)
    vectors = np.zeros((num_slots, item_vectors.shape[1]), np.float32)
    valid[slots] = ~items[ITEM_FLAG].to_numpy()
    counts[slots] = items["count"].to_numpy()
    vectors[slots] = item_vectors
    return {
        "item_valid": valid.reshape(shape),
        "item_counts": counts.reshape(shape),
        "item_vectors": vectors.reshape(*shape, -1),
    }


def _with_successors(dataset: Dataset) -> Dataset:
    """Writes the table of successors into a dataset's folder, and its hash."""
    folder, info, successors = dataset.path, dataset.info, dataset.successors
    write_tensors(folder / SUCCESSORS_FILE, vars(successors))
    found = {SUCCESSORS_FILE: file_digest(folder / SUCCESSORS_FILE)}
    info = replace(info, files={**info.files, **found})
    (folder / INFO_FILE).write_text(render_info(info), encoding="utf-8")
    return replace(dataset, info=info, stored_successors=successors)


def _sync_files(folder: Path) -> None:
    """Gives the files the permissions of `dataset.json`, and syncs them."""
    # Files that safetensors makes are readable only by their owner.
    mode = (folder / INFO_FILE).stat().st_mode
    for file in folder.iterdir():
        file.chmod(mode)
        sync(file)
    sync(folder)
