"""Checks the content of a dataset folder, beyond its hashes."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from eqids.config import UserError, require
from eqids.data.dataset import Dataset
from eqids.data.files import (
    CLUSTERS_FILE,
    HISTORIES_FILE,
    ITEMS_FILE,
    SUCCESSORS_FILE,
    USER_NUMBERS,
    USERS_FILE,
)

_CHUNK = 1 << 18
"""Events that are checked at a time: a core's caches hold them."""


def check_catalog(
    path: Path,
    slots: np.ndarray,
    counts: np.ndarray,
    retired: np.ndarray,
    dataset: Dataset,
) -> None:
    """Requires that every item has its own place, and that `item_valid` marks it.

    Args:
        path: the dataset folder, for messages.
        slots: int [item], of `items.parquet`.
        counts: int [item], of `items.parquet`.
        retired: bool [item], of `items.parquet`; their places are not marked.
        dataset: the clusters that they must agree with.
    """
    file, num_slots = path / ITEMS_FILE, dataset.item_valid.size
    valid = dataset.item_valid.reshape(-1)
    _all_rows(
        (slots >= 0) & (slots < num_slots),
        file,
        lambda row: f"slot is {slots[row]}, wanted 0 to {num_slots - 1}",
    )
    _all_rows(
        np.diff(slots, prepend=-1) > 0,
        file,
        lambda row: f"slot {slots[row]} is out of order or was given before",
    )
    _all_rows(
        valid[slots] | retired,
        file,
        lambda row: f"slot {slots[row]} is an empty place",
    )
    _all_rows(
        ~(valid[slots] & retired),
        file,
        lambda row: f"the item is retired, and its slot {slots[row]} is not",
    )
    wanted = int((~retired).sum())
    require(
        int(valid.sum()) == wanted,
        f"{path / CLUSTERS_FILE}: item_valid marks {valid.sum()} places, wanted "
        f"{wanted}, the items of {ITEMS_FILE}",
    )
    _all_rows(
        dataset.item_counts.reshape(-1)[slots] == counts,
        file,
        lambda row: f"count is {counts[row]}, which {CLUSTERS_FILE} contradicts",
    )
    require(
        bool(np.isfinite(dataset.item_vectors).all()),
        f"{path / CLUSTERS_FILE}: item_vectors has values that are not finite",
    )


def check_histories(path: Path, dataset: Dataset) -> None:
    """Requires slots that hold items, retired or not, and times that never fall."""
    file, slots, offsets = path / HISTORIES_FILE, dataset.slots, dataset.offsets
    require(
        offsets[[0, -1]].tolist() == [0, len(slots)]
        and bool((np.diff(offsets) > 0).all()),
        f"{file}: offsets do not rise from 0 to {len(slots)}",
    )
    holds_item = (dataset.item_valid | dataset.retired).reshape(-1)
    # In chunks, because the arrays may be larger than memory.
    for start in range(0, len(slots), _CHUNK):
        _check_slots(file, slots, start, holds_item)
        if dataset.times is not None:
            _check_order(file, dataset.times, start, offsets)


def _check_slots(
    file: Path, slots: np.ndarray, start: int, holds_item: np.ndarray
) -> None:
    """Requires that the slots of a chunk of events are places that hold an item."""
    chunk, num_slots = slots[start : start + _CHUNK], len(holds_item)
    _all_rows(
        (chunk >= 0) & (chunk < num_slots),
        file,
        lambda row: f"slot is {slots[row]}, wanted 0 to {num_slots - 1}",
        start,
    )
    _all_rows(
        holds_item[chunk],
        file,
        lambda row: f"slot {slots[row]} is a place that holds no item",
        start,
    )


def _check_order(
    file: Path, times: np.ndarray, start: int, offsets: np.ndarray
) -> None:
    """Requires that the times of a chunk of events never fall inside a history."""
    chunk = times[start : start + _CHUNK]
    in_order = np.ones(len(chunk), np.bool_)
    in_order[0] = start == 0 or chunk[0] >= times[start - 1]
    np.greater_equal(chunk[1:], chunk[:-1], out=in_order[1:])
    first, last = np.searchsorted(offsets, (start, start + len(chunk)))
    in_order[offsets[first:last] - start] = True
    _all_rows(
        in_order,
        file,
        lambda row: (
            f"time {times[row]} is before that of the row above, in one user's history"
        ),
        start,
    )


def check_targets(
    path: Path, numbers: Mapping[str, np.ndarray], dataset: Dataset
) -> None:
    """Requires targets inside their history, after the training events, in order.

    Args:
        path: the dataset folder, for messages.
        numbers: the columns of `users.parquet`, int [user].
        dataset: the histories that they must agree with.
    """
    file = path / USERS_FILE
    offset, length, train, valid, test = (numbers[name] for name in USER_NUMBERS)
    _all_rows(
        (offset == dataset.offsets[:-1]) & (length == np.diff(dataset.offsets)),
        file,
        lambda row: (
            f"offset {offset[row]} and length {length[row]} contradict {HISTORIES_FILE}"
        ),
    )
    _all_rows(
        (train >= 0) & (train <= length),
        file,
        lambda row: f"train_length is {train[row]}, wanted 0 to {length[row]}",
    )
    _check_positions(file, "valid_at", valid, train, length)
    _check_positions(file, "test_at", test, train, length)
    _all_rows(
        (valid == -1) | (test == -1) | (valid < test),
        file,
        lambda row: f"valid_at {valid[row]} is not before test_at {test[row]}",
    )


def check_successors(path: Path, dataset: Dataset) -> None:
    """Requires that successors are slots, with counts above zero."""
    found, file = dataset.stored_successors, path / SUCCESSORS_FILE
    if found is None:
        return
    require(
        found.offsets[0] == 0 and bool((np.diff(found.offsets) >= 0).all()),
        f"{file}: offsets do not rise from 0",
    )
    _all_rows(
        (found.slots >= 0) & (found.slots < dataset.item_valid.size),
        file,
        lambda row: (
            f"slot is {found.slots[row]}, wanted 0 to {dataset.item_valid.size - 1}"
        ),
    )
    _all_rows(
        np.isfinite(found.weights) & (found.weights > 0),
        file,
        lambda row: f"weight is {found.weights[row]}, wanted a number above 0",
    )


def _check_positions(
    file: Path, name: str, at: np.ndarray, train: np.ndarray, length: np.ndarray
) -> None:
    least = np.maximum(train, 1)
    _all_rows(
        (at == -1) | ((at >= least) & (at < length)),
        file,
        lambda row: (
            f"{name} is {at[row]}, wanted -1 or {least[row]} to {length[row] - 1}"
        ),
    )


def _all_rows(
    holds: np.ndarray, file: Path, say: Callable[[int], str], start: int = 0
) -> None:
    if not holds.all():
        row = start + int(np.argmin(holds))
        raise UserError(f"{file}, row {row}: {say(row)}; prepare the dataset again")
