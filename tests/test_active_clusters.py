"""Which clusters a batch uses, and which optimizer `auto` means for that."""

import dataclasses

import numpy as np
from conftest import make_dataset
from hypothesis import given, strategies as st

from eqids.config import NANO_RECIPE
from eqids.data import Dataset
from eqids.data.batches.host_batch import HostBatch
from eqids.fit.active_clusters import ClusterLists
from eqids.fit.dataset_clusters import choose_item_optimizer, cluster_lists


@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 4]), st.integers(1, 9))
def test_lists_hold_every_cluster_of_a_batch_once_and_in_order(
    seed: int, shards: int, capacity: int
) -> None:
    rng = np.random.default_rng(seed)
    slots = rng.integers(-1, 8 * 3, (2, 10))
    batch = HostBatch.empty(1, 10)
    batch.items[:], batch.target[:] = slots
    listed = ClusterLists(8, 3, shards, capacity).of_batch(batch).reshape(shards, -1)
    assert listed.shape[1] % capacity == 0 and listed.dtype == np.int32
    held = listed[listed < 8]
    assert held.tolist() == np.unique(slots[slots >= 0] // 3).tolist()
    for shard, row in enumerate(listed):
        assert (np.diff(row) >= 0).all() and (
            row[row < 8] // (8 // shards) == shard
        ).all()


def test_few_active_clusters_choose_the_sparse_optimizer(
    tmp_path: object, dataset: Dataset
) -> None:
    many = make_dataset(
        tmp_path / "many", num_clusters=400, cluster_size=2, num_items=500
    )  # type: ignore[operator]
    few = dataclasses.replace(NANO_RECIPE, batch_size=2, seq_len=9)
    assert choose_item_optimizer("auto", many, few) == "lazy_adam"
    assert choose_item_optimizer("auto", dataset, NANO_RECIPE) == "dense"
    assert choose_item_optimizer("adagrad", dataset, few) == "adagrad"
    assert 1 < cluster_lists(many, few, 1).capacity < 64
    assert cluster_lists(dataset, NANO_RECIPE, 1).capacity == dataset.info.num_clusters
