"""The manifest of a checkpoint: `manifest.json`, which describes the whole folder.

It holds (here of a run of 900 steps, shortened):

    {"format_version": 2,
     "step": 900,                         the training step, and the folder's name
     "saved": "2026-11-30T01:31:31+00:00",
     "arrays": {                          every array by its path in the tree
       "params/llama/blocks/wq": {
         "shape": [2, 2, 32, 64], "dtype": "float32",
         "chunk": [2, 2, 32, 64],         the shape of one chunk
         "chunks": [["0-0", "blake3:693…"]], each chunk's part, and digest of its values
         "key": null},                    of random keys: the generator's name
       …},
     "files": {                           every other file of the folder
       "arrays/0-0/manifest.ocdbt": {"size": 145, "digest": "blake3:0d83…", "start": 0},
       …},
     "meta": {                            what the run records, see `run_meta`
       "config": {"flags": …, "recipe": …, "strategy": "all", …},
       "model": {…},                      the sizes of the model
       "catalog_id": "e14ae7…", "dataset_hash": "d74bef…", "protocol": {…},
       "base": null,                      the fingerprint of a pretrained Llama
       "score": 0.1373,                   NDCG@10 on validation
       "validation": {…}, "versions": {…}}}

`python -m eqids.checkpoint show DIR/STEP` prints it. Beside it, the guard
`manifest.json.sha256` is a line that `sha256sum -c` reads. A folder is a checkpoint
if the two agree; arrays and files are then checked against the manifest.

The digests of chunks and files cover every byte once: where a file begins with the
values of a chunk, the file's own digest is of the bytes after them. In version 1, which
is still read, all digests were SHA-256 and of whole files.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from eqids.config import UserError, require
from eqids.config.upgrade import upgrade_meta
from eqids.io.cores import num_cores
from eqids.io.digests import ReportBytes, file_digest

FORMAT_VERSION = 2
_READABLE = (1, FORMAT_VERSION)
MANIFEST = "manifest.json"
GUARD = "manifest.json.sha256"


class DamageError(UserError):
    """A checkpoint differs from what was written; recovery restores an older one."""


class ChunkRecord(NamedTuple):
    """Where one chunk of an array is stored."""

    part: str
    """The part that holds it; see store.py."""
    digest: str
    """Of its values, in C order and little endian; see eqids/io/digests.py."""


@dataclass(frozen=True)
class ArrayRecord:
    """How one array is stored."""

    shape: tuple[int, ...]
    """The global shape, over all devices and processes."""
    dtype: str
    """NumPy's name of the stored dtype ('bfloat16', 'uint32', …)."""
    chunk: tuple[int, ...]
    """The shape of one chunk; the last chunk of an axis may be shorter."""
    chunks: tuple[ChunkRecord, ...]
    """Every chunk, in C order of the grid."""
    key: str | None = None
    """The random generator's name, if the array is the data of typed random keys."""

    @property
    def num_bytes(self) -> int:
        """Returns the size of the values in bytes."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class FileRecord:
    """One file of the checkpoint folder."""

    size: int
    """Bytes."""
    digest: str
    """Of its content from byte `start` on; see eqids/io/digests.py."""
    start: int = 0
    """How many bytes at its beginning are the values of the only chunk of its part,
    whose own digest covers them; they can be read without tensorstore."""


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    format_version: int
    """Version of this layout."""
    step: int
    """Training step; also the folder's name."""
    saved: str
    """The time of the save: ISO 8601, UTC."""
    arrays: Mapping[str, ArrayRecord]
    """Arrays by their path in the tree (`params/llama/blocks/wq`)."""
    files: Mapping[str, FileRecord]
    """Every other file of the folder, by relative path."""
    meta: Mapping[str, Any]
    """What the run records, as JSON; see the module and `run_meta` of eqids/runs.
    Besides the step, neither a data cursor nor a random state is needed: batch k is a
    function of dataset, seed and k, and a step's random key one of seed and step."""


def step_label(path: Path) -> str:
    """Returns how messages name a checkpoint: 'step 200 of runs/first'."""
    path = path.resolve() if path.name in ("", "..") else path
    return f"step {path.name} of {path.parent}"


def files_below(folder: Path) -> dict[str, Path]:
    """Returns the files below a folder by relative path, without manifest and guard."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*"))}
    return {
        name: path
        for name, path in found.items()
        if not path.is_dir() and name not in (MANIFEST, GUARD)
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest and its guard into a folder that is yet to be renamed.

    Numbers that are not finite become null: JSON has no NaN, and the save of a run
    whose loss diverged must not fail.
    """
    values = _finite(dataclasses.asdict(manifest))
    text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False)
    data = (text + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    (folder / GUARD).write_text(_guard(data))


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest of a checkpoint, after comparing it with its guard.

    Args:
        path: the checkpoint, DIR/STEP.

    Raises:
        DamageError: the manifest or its guard is missing, damaged, or of another step.
        UserError: the folder does not exist, or its format version is not supported.
    """
    label = step_label(path)
    require(path.is_dir(), f"{label}: no such folder, wanted DIR/STEP")
    for name in (MANIFEST, GUARD):
        if not (path / name).is_file():
            raise DamageError(f"{label}: file {name} is missing")
    data = (path / MANIFEST).read_bytes()
    if (path / GUARD).read_bytes() != _guard(data).encode():
        raise DamageError(
            f"{label}: {MANIFEST} or {GUARD} is damaged: their SHA-256 differ"
        )
    values = json.loads(data)
    version = values.get("format_version")
    require(
        version in _READABLE,
        f"{label}: {MANIFEST} has format_version {version}, wanted {FORMAT_VERSION} or "
        "lower: use the version of EqIDs that saved it",
    )
    manifest = _from_json(values)
    name = path.resolve().name
    if name.isdecimal() and name != str(manifest.step):
        raise DamageError(f"{label}: {MANIFEST} belongs to step {manifest.step}")
    return manifest


def size_problems(path: Path, manifest: Manifest) -> list[str]:
    """Returns which files are missing or have another size; none of them is read."""
    problems = []
    for name, record in manifest.files.items():
        try:
            size = os.stat(path / name).st_size
        except OSError:
            problems.append(f"{step_label(path)}: file {name} is missing")
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
    advance: ReportBytes | None = None,
) -> list[str]:
    """Returns which files have another content than the manifest records.

    Bytes that are the values of a chunk are left out; the chunk's digest covers them.

    Args:
        path: the checkpoint, DIR/STEP.
        manifest: the manifest of the checkpoint.
        below: only files whose relative path starts with this are read.
        advance: called for every file that was read.
    """
    chosen = {
        name: record
        for name, record in manifest.files.items()
        if name.startswith(below) and (path / name).is_file()
    }
    with ThreadPoolExecutor(num_cores()) as pool:
        jobs = {
            name: pool.submit(
                file_digest, path / name, record.digest, start=record.start
            )
            for name, record in chosen.items()
        }
        problems = []
        for name, record in chosen.items():
            if jobs[name].result() != record.digest:
                problems.append(f"{step_label(path)}: {damaged_file(name)}")
            if advance is not None:
                advance(record.size - record.start)
    return problems


def damaged_file(name: str) -> str:
    """Returns how messages say that a file of a checkpoint was changed."""
    return f"file {name} is damaged: its digest differs from the manifest's"


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
            chunks=tuple(ChunkRecord(*chunk) for chunk in row["chunks"]),
            key=row["key"],
        )
        for name, row in values["arrays"].items()
    }
    files = {name: _file_record(row) for name, row in values["files"].items()}
    meta = upgrade_meta(values["meta"])
    return Manifest(**{**values, "arrays": arrays, "files": files, "meta": meta})


def _file_record(row: Mapping[str, Any]) -> FileRecord:
    if "sha256" in row:  # version 1
        return FileRecord(row["size"], row["sha256"])
    return FileRecord(**row)


def raise_first(problems: list[str]) -> None:
    """Raises `DamageError` with the first of some problems."""
    if problems:
        raise DamageError(problems[0])
