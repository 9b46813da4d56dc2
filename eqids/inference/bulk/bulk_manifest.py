"""What a folder of recommendations was made of: `_manifest.json`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eqids.config import RecommendConfig, UserError, from_json, require, to_json
from eqids.data.info import INFO_FILE as DATASET_FILE
from eqids.data.raw.history_files import history_files
from eqids.inference.open import Opened
from eqids.io.atomic import write_json
from eqids.io.digests import combined_sha256, file_sha256

MANIFEST_FILE = "_manifest.json"
"""Readers of Parquet folders ignore names that begin with an underscore."""
_FORMAT_VERSION = 1
_MODEL_FILES = ("manifest.json", "eqids.json")
"""Files that hold the hashes of a checkpoint, or of a pair."""
_ROWS_OF_PART = 200_000
"""Recommendations of a part, unless --users_of_part says how many users."""


@dataclass(frozen=True)
class BulkJob:
    """All that determines the recommendations of a folder."""

    input_sha256: str
    """Hash of the content of the input's files, in order."""
    model_sha256: str
    """Hash of the file that holds the hashes of the model."""
    dataset_sha256: str
    """Hash of `dataset.json`, which holds the hashes of the dataset."""
    k: int
    """--k."""
    keep_seen: bool
    """--keep_seen."""
    unknown: str
    """--unknown."""
    request_time: str | None
    """--request_time."""
    users_of_part: int
    """Most users of a part."""

    @property
    def digest(self) -> str:
        """Names the job in the metadata of each part."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class BulkPart:
    """A part that is complete."""

    name: str
    """Its file."""
    num_users: int
    """Its users."""
    num_popular: int
    """Its users without history, whom popularity answered."""
    num_rows: int
    """Its recommendations."""
    sha256: str
    """Hash of the file."""


@dataclass(frozen=True)
class BulkManifest:
    """The content of `_manifest.json`."""

    job: BulkJob
    """What determines the recommendations."""
    input: str
    """--input."""
    model: str
    """The path of the model."""
    requested_at: int
    """Unix seconds of the start; a model that reads request times is asked then, unless
    the flags or the input say otherwise."""
    num_unknown: int
    """Events with items that the catalog does not hold, which were left out."""
    rows: Sequence[int]
    """The first event of each part among the sorted events, and their number."""
    users: Sequence[int]
    """The number of users before each part, and of all."""
    parts: Sequence[BulkPart] = ()
    """All parts, once they are complete."""
    format_version: int = _FORMAT_VERSION
    """Version of this file."""


def job_of(config: RecommendConfig, opened: Opened) -> BulkJob:
    """Returns what determines the recommendations that flags and a model make."""
    assert config.input is not None
    files = history_files(config.input)
    for file in files:
        require(file.is_file(), f"{file} does not exist, wanted a file, see --input")
    (model,) = (opened.path / n for n in _MODEL_FILES if (opened.path / n).is_file())
    return BulkJob(
        input_sha256=combined_sha256(map(file_sha256, files)),
        model_sha256=file_sha256(model),
        dataset_sha256=file_sha256(opened.dataset.path / DATASET_FILE),
        k=config.k,
        keep_seen=config.keep_seen,
        unknown=config.unknown,
        request_time=config.request_time,
        users_of_part=config.users_of_part or max(1, _ROWS_OF_PART // config.k),
    )


def write_manifest(folder: Path, manifest: BulkManifest) -> None:
    """Writes the manifest of a folder in one step."""
    parts = [to_json(part) for part in manifest.parts]
    write_json(folder / MANIFEST_FILE, {**to_json(manifest), "parts": parts})


def read_bulk_manifest(folder: Path, job: BulkJob) -> BulkManifest | None:
    """Returns the manifest of a folder, or None if it has none.

    Args:
        folder: of recommendations.
        job: the one that the folder must belong to.

    Raises:
        UserError: the folder belongs to another job, or its manifest is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = [from_json(BulkPart, one, str(path)) for one in values["parts"]]
        manifest = from_json(BulkManifest, {**values, "parts": parts}, str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): add --overwrite to start again"
        ) from None
    mine, theirs = asdict(job), asdict(manifest.job)
    differing = [name for name in mine if mine[name] != theirs[name]]
    require(
        not differing,
        f"{folder} holds the recommendations of another job: its "
        f"{' and '.join(differing)} differ; choose another --output, or add "
        "--overwrite to replace it",
    )
    return manifest
