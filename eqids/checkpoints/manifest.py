"""The manifest of a checkpoint: what is in the folder, and how to know that it is.

`manifest.json` lists every array (shape, dtype, a SHA-256 for each chunk of values)
and every file (size, SHA-256) and carries the run's own facts in `meta`. Its guard
is `manifest.json.sha256`, a line that `sha256sum -c` understands. A folder is a
checkpoint when both agree; everything else is checked against the manifest.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from eqids.config import UserError, require
from eqids.config.upgrade import upgrade_meta
from eqids.io.digests import file_sha256

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GUARD = "manifest.json.sha256"

_BLOCK_BYTES = 256 << 10


class DamageError(UserError):
    """A checkpoint that is not what was written: an older one has to serve."""


@dataclass(frozen=True)
class ArrayRecord:
    """One array as it is stored."""

    shape: tuple[int, ...]
    """Its whole shape, over all devices and processes."""
    dtype: str
    """NumPy's name of the stored values ('bfloat16', 'uint32', …)."""
    chunk: tuple[int, ...]
    """Shape of one chunk; chunks at the far edges may be cut off."""
    chunks: tuple[tuple[str, str], ...]
    """For every chunk in C order of the grid: the part that holds it, and the
    SHA-256 of its values (C order, little endian)."""
    key: str | None = None
    """The generator's name, where the array is the data of typed random keys."""

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class FileRecord:
    """One file of the checkpoint folder."""

    size: int
    """Bytes."""
    sha256: str
    """SHA-256 of its content, in hexadecimal."""


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    format_version: int
    """Version of this layout."""
    step: int
    """Training step; also the folder's name."""
    saved: str
    """When it was written: ISO 8601, UTC."""
    arrays: Mapping[str, ArrayRecord]
    """Arrays by name, the path in the tree (`params/llama/blocks/wq`)."""
    files: Mapping[str, FileRecord]
    """Every other file of the folder, by relative path."""
    meta: Mapping[str, Any]
    """The run's own facts, as JSON: config with the seed, catalog id, dataset hash,
    protocol, base model's fingerprint, versions, `score` (NDCG@10 on validation).
    The step is the data cursor and the state of the random generator as well: batch k
    is a function of dataset, seed and k, and a step's key of seed and step."""


def step_label(path: Path) -> str:
    """How messages name the checkpoint at `path`: 'step 200 of runs/first'."""
    path = path.resolve() if path.name in ("", "..") else path
    return f"step {path.name} of {path.parent}"


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by relative path, without manifest and guard."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*"))}
    return {
        name: path
        for name, path in found.items()
        if not path.is_dir() and name not in (MANIFEST, GUARD)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest and guard into a folder that nobody sees yet.

    Numbers that are not finite become null: JSON has no NaN, and a checkpoint must
    not be lost to a loss that diverged.
    """
    values = _finite(dataclasses.asdict(manifest))
    text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False)
    data = (text + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    (folder / GUARD).write_text(_guard(data))


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint at `path` (DIR/STEP), checked by its guard.

    Raises:
        DamageError: manifest or guard is missing or damaged, or that of another step.
        UserError: no such folder, or a version that this code does not read.
    """
    label = step_label(path)
    require(path.is_dir(), f"{label}: no such folder, wanted a checkpoint")
    for name in (MANIFEST, GUARD):
        if not (path / name).is_file():
            raise DamageError(f"{label}: no file {name}, wanted one")
    data = (path / MANIFEST).read_bytes()
    if (path / GUARD).read_bytes() != _guard(data).encode():
        raise DamageError(
            f"{label}: {MANIFEST} or {GUARD} is damaged, their SHA-256 differ"
        )
    values = json.loads(data)
    version = values.get("format_version")
    require(
        version == FORMAT_VERSION,
        f"{label}: format version {version}, this EqIDs reads {FORMAT_VERSION}",
    )
    manifest = _from_json(values)
    name = path.resolve().name
    if name.isdecimal() and name != str(manifest.step):
        raise DamageError(f"{label}: {MANIFEST} is that of step {manifest.step}")
    return manifest


def size_problems(path: Path, manifest: Manifest) -> list[str]:
    """Files that are missing or have another size: found without reading them."""
    problems = []
    for name, record in manifest.files.items():
        try:
            size = os.stat(path / name).st_size
        except OSError:
            problems.append(f"{step_label(path)}: no file {name}")
            continue
        if size != record.size:
            problems.append(
                f"{step_label(path)}: file {name} has {size:,} bytes, "
                f"wanted {record.size:,}"
            )
    return problems


def content_problems(
    path: Path,
    manifest: Manifest,
    below: str = "",
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Files whose name starts with `below` and whose content is not the recorded."""
    problems = []
    for name, record in manifest.files.items():
        file = path / name
        if not name.startswith(below) or not file.is_file():
            continue
        if file_sha256(file, advance) != record.sha256:
            problems.append(
                f"{step_label(path)}: file {name} is damaged, "
                "its SHA-256 is not the manifest's"
            )
    return problems


def _guard(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(values: Mapping[str, Any]) -> Manifest:
    arrays = {
        name: ArrayRecord(
            shape=tuple(row["shape"]),
            dtype=row["dtype"],
            chunk=tuple(row["chunk"]),
            chunks=tuple((part, sha256) for part, sha256 in row["chunks"]),
            key=row["key"],
        )
        for name, row in values["arrays"].items()
    }
    files = {name: FileRecord(**row) for name, row in values["files"].items()}
    meta = upgrade_meta(values["meta"])
    return Manifest(**{**values, "arrays": arrays, "files": files, "meta": meta})


def raise_first(problems: list[str]) -> None:
    """Raises `DamageError` with the first problem, if there is one."""
    if problems:
        raise DamageError(problems[0])
