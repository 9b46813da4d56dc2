"""The dataset folder: histories, targets and the catalog, checked when opened."""

import functools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eqids.config import UserError, require
from eqids.data.catalog.lineage import Lineage, check_lineage, lineage_of
from eqids.data.checks import check_catalog, check_histories, check_targets
from eqids.data.files import (
    CLUSTERS_FILE,
    DATA_FILES,
    HISTORIES_FILE,
    ITEM_COLUMNS,
    ITEM_FLAG,
    ITEM_NUMBERS,
    ITEMS_FILE,
    LINEAGE_FILE,
    USER_COLUMNS,
    USER_NUMBERS,
    USERS_FILE,
    data_files,
    read_array,
    read_numbers,
    read_parquet,
    read_tensors,
)
from eqids.data.ids import Ids, shown
from eqids.data.info import INFO_FILE, DatasetInfo, read_info
from eqids.io.digests import file_sha256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Histories, targets and the catalog of one dataset folder.

    The history of user u is `slots[offsets[u]:offsets[u + 1]]`, sorted by time.
    What a model may see of it when it predicts the event at p is events [0, p).
    """

    path: Path
    """The folder."""
    info: DatasetInfo
    """The content of `dataset.json`."""
    slots: np.ndarray
    """int32 [event]: the items of all histories, users one after the other."""
    times: np.ndarray | None
    """int64 [event]: unix seconds, or none where the source has no times."""
    offsets: np.ndarray
    """int64 [user + 1]: where each history starts and ends."""
    train_length: np.ndarray
    """int32 [user]: how many of the first events are for training."""
    valid_at: np.ndarray
    """int32 [user]: position of the validation target in the history; -1: none, or
    a retired item."""
    test_at: np.ndarray
    """int32 [user]: position of the test target in the history; -1: none, or a
    retired item."""
    targets_retired: tuple[int, int]
    """Users who are left out of validation and of test, for that reason."""
    item_valid: np.ndarray
    """bool [cluster, place]: places that hold an item, which is not retired."""
    retired: np.ndarray
    """bool [cluster, place]: places of retired items, which histories may name."""
    item_counts: np.ndarray
    """int64 [cluster, place]: training events of each item."""
    item_vectors: np.ndarray
    """float32 [cluster, place, vector_width]: truncated SVD, zeros in empty places."""
    lineage: Lineage
    """The versions of the catalog."""

    @property
    def num_users(self) -> int:
        """Number of users."""
        return self.info.num_users

    @property
    def num_slots(self) -> int:
        """Number of places, empty ones included."""
        return self.info.num_clusters * self.info.cluster_size

    def history(self, user: int) -> np.ndarray:
        """int32 [event]: the slots of one user, oldest first (a view)."""
        return self.slots[self.offsets[user] : self.offsets[user + 1]]

    def items(self) -> pd.DataFrame:
        """The catalog in order of slots: slot, item, title, text, count, retired."""
        frame = read_parquet(self.path / ITEMS_FILE).to_pandas()
        return frame if ITEM_FLAG in frame else frame.assign(**{ITEM_FLAG: False})

    def users(self) -> pd.DataFrame:
        """The users in order: user, offset, length, train_length, valid_at, test_at."""
        return read_parquet(self.path / USERS_FILE).to_pandas()

    @functools.cached_property
    def _items_by_id(self) -> tuple[Ids, np.ndarray]:
        table = read_parquet(self.path / ITEMS_FILE, columns=["item", "slot"])
        # The last is for items that the catalog does not hold.
        slots = np.append(table["slot"].to_numpy(), -1)
        return Ids(table["item"]), slots.astype(np.int32)

    @functools.cached_property
    def _users_by_id(self) -> Ids:
        return Ids(read_parquet(self.path / USERS_FILE, columns=["user"])["user"])

    def find_items(self, items: Iterable[Any]) -> np.ndarray:
        """The slots of item ids, however they are spelled; see `eqids.data.ids`.

        Args:
            items: ids of any type.

        Returns:
            int32 [item], -1 where the catalog does not hold it.
        """
        ids, slots = self._items_by_id
        return slots[ids.find(items)]

    def slot_of(self, items: Iterable[Any]) -> np.ndarray:
        """The slots of item ids that the catalog holds; see `find_items`.

        Returns:
            int32 [item].

        Raises:
            UserError: naming the first id that the catalog does not hold, and how
                many there are.
        """
        items = items if isinstance(items, np.ndarray) else list(items)
        slots = self.find_items(items)
        unknown = np.flatnonzero(slots < 0)
        if len(unknown):
            more = f", nor are {len(unknown) - 1:,} others" if len(unknown) > 1 else ""
            raise UserError(
                f"item {shown(items[unknown[0]])} is not in the catalog of "
                f"{self.path}{more}"
            )
        return slots

    def user_index(self, user: Hashable) -> int:
        """The row of a user id, however it is spelled; see `eqids.data.ids`.

        Raises:
            UserError: if the dataset holds no such user.
        """
        (row,) = self._users_by_id.find([user]).tolist()
        require(row >= 0, f"user {shown(user)} is not among the users of {self.path}")
        return row


def open_dataset(path: Path) -> Dataset:
    """Opens a dataset folder and checks all of it: hashes, ranges and order.

    Raises:
        UserError: naming the file, and where it applies the row, that is wrong.
    """
    path = Path(path)
    require(
        not path.is_file(), f"{path} is a file, wanted a dataset folder, see --data_dir"
    )
    require(
        path.is_dir(),
        f"{path} is not there, wanted a dataset folder, see --data_dir; to make "
        f"one: python -m eqids.prepare --data_dir {path} --source SOURCE",
    )
    for name in (INFO_FILE, *DATA_FILES):
        _require_file(path, name)
    info = read_info(path / INFO_FILE)
    for name in data_files(info.catalog_version):
        _require_file(path, name)
        found = file_sha256(path / name)
        require(
            found == info.files.get(name),
            f"{path / name} was changed after it was written (its sha256 is {found}, "
            f"wanted {info.files.get(name)}): prepare the dataset again",
        )
    return _load(path, info)


def _require_file(path: Path, name: str) -> None:
    require(
        (path / name).is_file(),
        f"{path / name} is missing, so {path} is not a whole dataset; prepare it again "
        "from its own source",
    )


def _load(path: Path, info: DatasetInfo) -> Dataset:
    users, places = (info.num_users,), (info.num_clusters, info.cluster_size)
    vectors = (*places, info.clusters.vector_width)
    events = read_tensors(path / HISTORIES_FILE)
    clusters = read_tensors(path / CLUSTERS_FILE)
    targets = read_numbers(
        path / USERS_FILE, USER_COLUMNS, USER_NUMBERS, info.num_users
    )
    items = _read_items(path / ITEMS_FILE, info)

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
    )
    check_catalog(path, items["slot"], items["count"], items[ITEM_FLAG], dataset)
    check_histories(path, dataset)
    check_targets(path, targets, dataset)
    return _without_retired_targets(dataset)


def _read_items(file: Path, info: DatasetInfo) -> dict[str, np.ndarray]:
    if info.format_version == 1:
        columns = tuple(name for name in ITEM_COLUMNS if name != ITEM_FLAG)
        items = read_numbers(file, columns, ITEM_NUMBERS, info.num_items)
        return {**items, ITEM_FLAG: np.zeros(info.num_items, np.bool_)}
    return read_numbers(
        file, ITEM_COLUMNS, ITEM_NUMBERS, info.num_items, flags=(ITEM_FLAG,)
    )


def _retired_places(
    items: Mapping[str, np.ndarray], places: tuple[int, int]
) -> np.ndarray:
    slots = items["slot"][items[ITEM_FLAG]]
    retired = np.zeros(places, np.bool_)
    # Slots out of range are found by the checks, which name their rows.
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
