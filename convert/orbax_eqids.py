"""Describe a checkpoint of ours in Orbax's layout, so that it becomes one again.

`eqids_orbax.json` beside the tree holds what the checkpoint recorded, and the SHA-256
of every file; `eqids_orbax.json.sha256` is its own, as `sha256sum -c` reads it. Orbax
ignores both.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from convert.json_file import read_object
from convert.orbax_read import OrbaxTree
from convert.outputs import OutputFolder, Weight
from eqids.checkpoints import Manifest
from eqids.config import require
from eqids.config.upgrade import upgrade_meta
from eqids.io.digests import file_sha256
from sharding import LazyArray

INFO_FILE, GUARD_FILE = "eqids_orbax.json", "eqids_orbax.json.sha256"
LLAMA = "llama/"
"""How names of a frozen Llama's tensors begin, which no checkpoint of ours holds."""
_FORMAT_VERSION = 1
_FIELDS: Mapping[str, type] = {
    "step": int, "meta": dict, "arrays": dict, "files": dict,
}  # fmt: skip
_AGAIN = "wanted the folder as eqids-to-orbax wrote it: convert the checkpoint again"


@dataclass(frozen=True)
class OrbaxExport:
    """A folder of `eqids-to-orbax`.

    Attributes:
        step: of the checkpoint.
        meta: what it recorded.
        arrays: those of the checkpoint, by their names in it.
    """

    step: int
    meta: Mapping[str, Any]
    arrays: Mapping[str, LazyArray]


def is_export(folder: Path) -> bool:
    """Returns whether a folder has a file that only exports of ours have."""
    return (folder / INFO_FILE).is_file() or (folder / GUARD_FILE).is_file()


def describe_export(
    new: OutputFolder, manifest: Manifest, weights: Mapping[str, Weight]
) -> None:
    """Writes the description of a tree that is already in the folder.

    Args:
        new: the folder.
        manifest: of the checkpoint.
        weights: what the tree holds, by name.
    """
    about = {
        "format_version": _FORMAT_VERSION,
        "step": manifest.step,
        "saved": manifest.saved,
        "arrays": {
            name: {"shape": list(one.shape), "dtype": one.dtype.name}
            for name, one in weights.items()
        },
        "files": dict(sorted(new.digests.items())),
        "meta": dict(manifest.meta),
    }
    new.write_json(INFO_FILE, about)
    new.write(GUARD_FILE, _guard(new.digests[INFO_FILE]).encode())


def read_export(folder: Path) -> OrbaxExport:
    """Opens a folder of `eqids-to-orbax`, after reading and comparing every file.

    Raises:
        UserError: a file is missing or damaged, or the tree has other arrays than the
            description says.
    """
    about = _read_info(folder)
    _check_files(folder, about["files"])
    leaves, wanted = OrbaxTree(folder).leaves, about["arrays"]
    found = {
        name: {"shape": list(one.shape), "dtype": one.dtype.name}
        for name, one in leaves.items()
    }
    differs = sorted(
        name for name in {*found, *wanted} if found.get(name) != wanted.get(name)
    )
    name = differs[0] if differs else ""
    require(
        not differs,
        f"{folder}: array {name} is {found.get(name)}, and {INFO_FILE} says "
        f"{wanted.get(name)}; {_AGAIN}",
    )
    arrays = {n: leaves[n] for n in wanted if not n.startswith(LLAMA)}
    return OrbaxExport(about["step"], upgrade_meta(about["meta"]), arrays)


def _read_info(folder: Path) -> Mapping[str, Any]:
    path, guard = folder / INFO_FILE, folder / GUARD_FILE
    for file in (path, guard):
        require(file.is_file(), f"{folder} has no {file.name}, {_AGAIN}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    require(
        guard.read_bytes() == _guard(digest).encode(),
        f"{path} or {GUARD_FILE} is damaged: their SHA-256 differ, {_AGAIN}",
    )
    about = read_object(path)
    version = about.get("format_version")
    require(
        version == _FORMAT_VERSION,
        f"{path}: format_version is {version!r}, wanted {_FORMAT_VERSION}",
    )
    for name, kind in _FIELDS.items():
        found = about.get(name)
        require(
            isinstance(found, kind),
            f"{path}: {name} is {found!r:.60}, wanted {kind.__name__}",
        )
    return about


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        inner = PurePosixPath(name)
        require(
            not inner.is_absolute() and ".." not in inner.parts,
            f"{folder / INFO_FILE} names the file {name}, wanted files inside {folder}",
        )
        path = folder / name
        require(path.is_file(), f"{folder} has no file {name}, {_AGAIN}")
        found = file_sha256(path)
        require(
            found == digest,
            f"{path} is damaged: its SHA-256 differs from that in {INFO_FILE}, "
            f"{_AGAIN}",
        )


def _guard(digest: str) -> str:
    return f"{digest}  {INFO_FILE}\n"
