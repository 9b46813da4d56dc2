"""A dataset in the slots of an earlier version of its catalog."""

from dataclasses import replace
from functools import partial

import numpy as np

from eqids.data.dataset import Dataset
from eqids.data.info import DatasetInfo


def as_of(dataset: Dataset, version: int) -> Dataset:
    """Returns the same histories in the slots of an earlier version of the catalog.

    Events of items that were added later are left out. So are targets that were not
    valid in that version.

    Args:
        dataset: a dataset with the present version of the catalog.
        version: the version, from 1 to the present one.
    """
    lineage = dataset.lineage
    if version == lineage.version:
        return dataset
    valid, slot_then = lineage.valid_at(version), lineage.slots_at(version)
    slots = slot_then[dataset.slots]
    kept = slots >= 0
    num_before = np.concatenate([[0], np.cumsum(kept)])
    starts, offsets = dataset.offsets[:-1], num_before[dataset.offsets]
    usable = kept & valid.reshape(-1)[slots]

    def without(at: np.ndarray) -> np.ndarray:
        event = starts + np.maximum(at, 0)
        position = num_before[event] - offsets[:-1]
        good = (at >= 0) & usable[event] & (position > 0)
        return np.where(good, position, -1).astype(np.int32)

    lengths = num_before[starts + dataset.train_length] - offsets[:-1]
    in_catalog = dataset.item_valid | dataset.retired
    now = np.flatnonzero(in_catalog.reshape(-1) & (slot_then >= 0))
    remapped = partial(_remapped, now=now, then=slot_then[now], shape=valid.shape)
    return replace(
        dataset,
        info=replace(
            _info_of(dataset, version), num_items=len(now), num_events=int(kept.sum())
        ),
        slots=slots[kept],
        times=None if dataset.times is None else dataset.times[kept],
        offsets=offsets,
        train_length=lengths.astype(np.int32),
        valid_at=without(dataset.valid_at),
        test_at=without(dataset.test_at),
        item_valid=valid,
        retired=remapped(in_catalog) & ~valid,
        item_counts=remapped(dataset.item_counts),
        item_vectors=remapped(dataset.item_vectors),
        lineage=lineage.until(version),
        stored_successors=None,
    )


def _info_of(dataset: Dataset, version: int) -> DatasetInfo:
    """What is recorded of a dataset, with the catalog of another version."""
    return replace(
        dataset.info,
        num_clusters=len(dataset.lineage.valid_at(version)),
        catalog_id=dataset.lineage.catalog_ids[version - 1],
        catalog_version=version,
    )


def _remapped(
    array: np.ndarray, now: np.ndarray, then: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """An array [cluster, place, ...] with the rows of slots `now` at slots `then`."""
    rows = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
    out = np.zeros((shape[0] * shape[1], *array.shape[2:]), array.dtype)
    out[then] = rows[now]
    return out.reshape(*shape, *array.shape[2:])
