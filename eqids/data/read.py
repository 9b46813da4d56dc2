"""Opens a dataset folder and checks all of it: hashes, ranges and order."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from eqids.cli import waiting
from eqids.config import require
from eqids.data.catalog.lineage import Lineage, check_lineage, lineage_of
from eqids.data.checks import (
    check_catalog,
    check_histories,
    check_successors,
    check_targets,
)
from eqids.data.dataset import Dataset
from eqids.data.files import (
    CLUSTERS_FILE,
    DATA_FILES,
    HISTORIES_FILE,
    ITEM_COLUMNS,
    ITEM_FLAG,
    ITEM_NUMBERS,
    ITEMS_FILE,
    LINEAGE_FILE,
    SUCCESSORS_FILE,
    USER_COLUMNS,
    USER_NUMBERS,
    USERS_FILE,
    data_files,
    read_array,
    read_events,
    read_numbers,
    read_tensors,
)
from eqids.data.info import INFO_FILE, DatasetInfo, read_info
from eqids.data.successors import Successors
from eqids.io.digests import file_digest


def open_dataset(path: Path) -> Dataset:
    """Opens a dataset folder and checks all of it: hashes, ranges and order.

    Raises:
        UserError: a file is invalid; the message names the file and, if one is wrong,
            the row.
    """
    path = Path(path)
    require(
        not path.is_file(), f"{path} is a file, wanted a dataset folder, see --data_dir"
    )
    require(
        path.is_dir(),
        f"{path} does not exist, wanted a dataset folder, see --data_dir; to make "
        f"one: python -m eqids.prepare --data_dir {path} --source SOURCE",
    )
    with waiting(f"checking {path}"):
        return _checked(path)


def _checked(path: Path) -> Dataset:
    for name in (INFO_FILE, *DATA_FILES):
        _require_file(path, name)
    info = read_info(path / INFO_FILE)
    names = data_files(info.catalog_version)
    if SUCCESSORS_FILE in info.files:
        names = (*names, SUCCESSORS_FILE)
    for name in names:
        _require_file(path, name)
        said = info.files.get(name)
        found = file_digest(path / name, said)
        require(
            found == said,
            f"{path / name} was changed after it was written (its digest is {found}, "
            f"wanted {said}): prepare the dataset again",
        )
    return _load(path, info)


def _require_file(path: Path, name: str) -> None:
    require(
        (path / name).is_file(),
        f"{path / name} is missing, so {path} is no complete dataset; prepare it again "
        "from its source",
    )


def _load(path: Path, info: DatasetInfo) -> Dataset:
    users, places = (info.num_users,), (info.num_clusters, info.cluster_size)
    vectors = (*places, info.clusters.vector_width)
    events = read_events(path / HISTORIES_FILE)
    clusters = read_tensors(path / CLUSTERS_FILE)
    targets = read_numbers(
        path / USERS_FILE, USER_COLUMNS, USER_NUMBERS, info.num_users
    )
    items = read_numbers(
        path / ITEMS_FILE, ITEM_COLUMNS, ITEM_NUMBERS, info.num_items, (ITEM_FLAG,)
    )

    def of_events(name: str, dtype: type, size: int) -> np.ndarray:
        return read_array(path / HISTORIES_FILE, events, name, dtype, (size,))

    def of_users(name: str) -> np.ndarray:
        return read_array(path / USERS_FILE, targets, name, np.int32, users)

    def of_places(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return read_array(path / CLUSTERS_FILE, clusters, name, dtype, shape)

    has_times = "times" in events
    valid = of_places("item_valid", np.bool_, places)
    dataset = Dataset(
        path=path,
        info=info,
        slots=of_events("slots", np.int32, info.num_events),
        times=of_events("times", np.int64, info.num_events) if has_times else None,
        offsets=of_events("offsets", np.int64, info.num_users + 1),
        train_length=of_users("train_length"),
        valid_at=of_users("valid_at"),
        test_at=of_users("test_at"),
        targets_retired=(0, 0),
        item_valid=valid,
        retired=_retired_places(items, places),
        item_counts=of_places("item_counts", np.int64, places),
        item_vectors=of_places("item_vectors", np.float32, vectors),
        lineage=_lineage(path, info, valid),
        stored_successors=_successors(path, info),
    )
    check_catalog(path, items["slot"], items["count"], items[ITEM_FLAG], dataset)
    check_histories(path, dataset)
    check_targets(path, targets, dataset)
    check_successors(path, dataset)
    return _without_retired_targets(dataset)


def _retired_places(
    items: Mapping[str, np.ndarray], places: tuple[int, int]
) -> np.ndarray:
    slots = items["slot"][items[ITEM_FLAG]]
    retired = np.zeros(places, np.bool_)
    # The checks below find slots out of range, and name their rows.
    retired.reshape(-1)[slots[(slots >= 0) & (slots < retired.size)]] = True
    return retired


def _lineage(path: Path, info: DatasetInfo, valid: np.ndarray) -> Lineage:
    if info.catalog_version == 1:
        return Lineage(valid)
    file = path / LINEAGE_FILE
    lineage = lineage_of(file, read_tensors(file))
    require(
        lineage.version == info.catalog_version,
        f"{file} is of version {lineage.version} of the catalog, wanted "
        f"{info.catalog_version}",
    )
    check_lineage(file, lineage, valid)
    return lineage


def _successors(path: Path, info: DatasetInfo) -> Successors | None:
    if SUCCESSORS_FILE not in info.files:
        return None
    file = path / SUCCESSORS_FILE
    arrays = read_tensors(file)
    num_slots = info.num_clusters * info.cluster_size
    offsets = read_array(file, arrays, "offsets", np.int64, (num_slots + 1,))
    pairs = (int(offsets[-1]),)
    return Successors(
        offsets,
        read_array(file, arrays, "slots", np.int32, pairs),
        read_array(file, arrays, "weights", np.float32, pairs),
    )


def _without_retired_targets(dataset: Dataset) -> Dataset:
    retired = dataset.retired.reshape(-1)

    def without(at: np.ndarray) -> tuple[np.ndarray, int]:
        target = dataset.slots[dataset.offsets[:-1] + np.maximum(at, 0)]
        gone = (at >= 0) & retired[target]
        return np.where(gone, -1, at).astype(np.int32), int(gone.sum())

    valid_at, valid_gone = without(dataset.valid_at)
    test_at, test_gone = without(dataset.test_at)
    return replace(
        dataset,
        valid_at=valid_at,
        test_at=test_at,
        targets_retired=(valid_gone, test_gone),
    )
