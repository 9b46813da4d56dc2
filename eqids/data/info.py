"""`dataset.json`: the description of a dataset folder, with a hash of itself."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eqids.config import TimeUnit, UserError, from_json, require, to_json

FORMAT_VERSION = 4
_READABLE = (3, FORMAT_VERSION)  # 3 has SHA-256 only
INFO_FILE = "dataset.json"
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Protocol:
    """How events became histories and targets; results with equal protocols are
    comparable."""

    split: Literal["leave_one_out", "temporal"]
    """leave_one_out: a user's last event is test, the one before validation."""
    ties: Literal["file_order", "seeded_hash"]
    """Order of a user's events with equal times."""
    duplicates: Literal["dropped", "kept"]
    """Second copies of (user, item, time); kept where the source has no times."""
    history_at_test: str = "includes validation"
    """What a model may see of a user when it predicts the test target."""
    min_rating: float | None = None
    """Events rated lower were dropped."""
    min_user_interactions: int = 1
    """Users with fewer events were dropped, alternating with the next filter until
    stable."""
    min_item_interactions: int = 1
    """Items with fewer events were dropped."""
    valid_from: int | None = None
    """temporal: unix time from which events validate (80% quantile)."""
    test_from: int | None = None
    """temporal: unix time from which events test (90% quantile)."""
    seed: int = 0
    """Seed of the hash that breaks ties, if it is used."""
    order_column: str | None = None
    """Column that ordered a user's events, if it was not the column of times."""


@dataclass(frozen=True)
class Counts:
    """What preparation read, dropped and found."""

    rows_read: int
    """Rows of the source."""
    missing_dropped: int = 0
    """Rows dropped because a value was missing."""
    rated_lower: int = 0
    """Rows dropped by min_rating."""
    duplicates_dropped: int = 0
    """Second copies of (user, item, time)."""
    rare_dropped: int = 0
    """Rows dropped by min_user_interactions and min_item_interactions."""
    users_dropped: int = 0
    """Users that those filters dropped."""
    items_dropped: int = 0
    """Items that those filters dropped."""
    tied_neighbours: int = 0
    """Neighbouring events of one user with equal times."""
    ascending_ties: int = 0
    """Those of these neighbours whose items ascend in the file's order."""
    short_users: int = 0
    """Users without targets, whose events only train: they have too few events or, in a
    temporal split, no event to predict from history."""
    users_valid: int = 0
    """Users with a validation target."""
    users_test: int = 0
    """Users with a test target."""
    items_untrained: int = 0
    """Items that occur in no training event."""
    item_rows: int = 0
    """Rows of the file that names items."""
    item_rows_repeated: int = 0
    """Rows of that file that repeat another row."""
    item_rows_unused: int = 0
    """Ids in that file that have no event."""
    items_unnamed: int = 0
    """Items that are missing from that file."""
    items_untitled: int = 0
    """Items whose title is empty in that file."""


@dataclass(frozen=True)
class ClustersInfo:
    """How items were put into clusters."""

    method: Literal["kmeans", "popularity", "random", "file"]
    """What items of one cluster have in common: vectors, popularity or nothing; or that
    a file of the user's says so."""
    vector_width: int
    """Size of the item vectors."""
    seed: int
    """Seed of the vectors, the clusters and their order."""
    smallest: int
    """Items of the smallest cluster."""
    largest: int
    """Items of the largest cluster."""
    consecutive_share: float
    """Share of consecutive training events whose items share a cluster."""
    random_share: float | None = None
    """What that share would be in random clusters of the same sizes."""
    mean: float | None = None
    """Items of a cluster, on average."""
    empty_share: float | None = None
    """Share of places that hold no item."""
    vectors: str = "interactions"
    """Source of item vectors: interactions, words, text, or the user's file."""
    spherical: bool = False
    """Whether vectors were compared by direction only."""
    seconds: float | None = None
    """Time for vectors and clusters, of datasets before version 0.3. It is no longer
    recorded, because the same events make the same folder, to the byte."""


@dataclass(frozen=True)
class TextsInfo:
    """How titles and texts of items are made, for items that are added later."""

    template: str
    """Text with names of columns in braces; empty if there are no texts."""
    title_column: str = "title"
    """Column of titles."""
    year_in_title: bool = False
    """Whether titles end in their year, '(1995)', which is a column of its own."""
    null_values: tuple[str, ...] = ()
    """Texts that mean an empty cell."""


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`."""

    source: str
    """The value of --source."""
    num_users: int
    """Users."""
    num_items: int
    """Items, retired ones included."""
    num_events: int
    """Events over all histories."""
    num_clusters: int
    """Clusters of the catalog."""
    cluster_size: int
    """Places in a cluster; an item's slot is cluster * cluster_size + place."""
    protocol: Protocol
    """How events became histories and targets."""
    counts: Counts
    """What preparation read, dropped and found."""
    clusters: ClustersInfo
    """How items were put into clusters."""
    time_unit: TimeUnit | None = None
    """Unit of the source's times; seconds if they are dates."""
    texts: TextsInfo | None = None
    """How texts are made, or none if no file names the items."""
    catalog_id: str = ""
    """Hash of the item ids by slot and of the retired items; checkpoints record it."""
    catalog_version: int = 1
    """Version of the catalog: 1 as prepared, and one more for each change."""
    dataset_hash: str = ""
    """Hash of the histories, targets, protocol and catalog."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digest of every other file, see eqids/io/digests.py."""
    format_version: int = FORMAT_VERSION
    """Version of this layout of files."""


def render_info(info: DatasetInfo) -> str:
    """Returns the text of `dataset.json`, with a hash of the rest of itself."""
    values = {**to_json(info), "files": dict(info.files), "sha256": _NO_HASH}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return text.replace(_NO_HASH, hashlib.sha256(text.encode()).hexdigest())


def read_info(path: Path) -> DatasetInfo:
    """Reads and checks a `dataset.json`.

    Raises:
        UserError: the file is not JSON, has another version, or was changed.
    """
    try:
        text = path.read_bytes().decode()
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): prepare it again") from None
    require(isinstance(values, dict), f"{path} is not a JSON object: prepare it again")
    version = values.get("format_version")
    require(
        version in _READABLE,
        f"{path}: format_version is {version!r}, wanted {FORMAT_VERSION}; make the "
        f"dataset anew with the flags it was made with: {_command(path, values)}",
    )
    _check_hash(path, text, values)
    del values["sha256"]
    return from_json(DatasetInfo, values, str(path))


def _command(path: Path, values: Mapping[str, Any]) -> str:
    """The command that prepares a dataset again, as far as `dataset.json` records
    it."""
    flags = ["--source", str(values.get("source", "SOURCE"))]
    flags += ["--data_dir", str(path.parent), "--overwrite"]
    return shlex.join(["python", "-m", "eqids.prepare", *flags])


def _check_hash(path: Path, text: str, values: Mapping[str, Any]) -> None:
    said = values.get("sha256")
    require(
        isinstance(said, str) and len(said) == 64,
        f"{path}: sha256 is {said!r}, wanted 64 hexadecimal digits: prepare it again",
    )
    found = hashlib.sha256(text.replace(str(said), _NO_HASH).encode()).hexdigest()
    require(
        found == said,
        f"{path} was changed after it was written (its sha256 is {found}, wanted "
        f"{said}): prepare it again",
    )


def with_hashes(
    info: DatasetInfo, catalog_id: str, dataset_hash: str, files: Mapping[str, str]
) -> DatasetInfo:
    """Returns `info` with the hashes of the written files."""
    return replace(
        info,
        catalog_id=catalog_id,
        dataset_hash=dataset_hash,
        files=dict(files),
        format_version=FORMAT_VERSION,
    )
