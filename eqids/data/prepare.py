"""From raw interactions to a dataset folder."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from eqids.config import PrepareConfig
from eqids.data.clusters import assign, consecutive_share, item_vectors, place
from eqids.data.dataset import Dataset
from eqids.data.info import ClustersInfo, Counts, DatasetInfo, Protocol
from eqids.data.interactions import Interactions, read_interactions
from eqids.data.sources import open_source
from eqids.data.split import Split, leave_one_out, temporal
from eqids.data.write import check_target, write_dataset


@dataclass(frozen=True)
class Catalog:
    """Where items stand, in the order of `Interactions.items`."""

    slot: np.ndarray
    """int32 [item]: cluster * room + place."""
    count: np.ndarray
    """int64 [item]: training events."""
    vectors: np.ndarray
    """float32 [item, vector_width]."""
    num_clusters: int
    """Number of clusters."""
    room: int
    """Places in a cluster."""
    info: ClustersInfo
    """How the clusters were made."""


def prepare(config: PrepareConfig, progress: Callable[[str], None]) -> Dataset:
    """Reads a source, splits it, clusters its items and writes a dataset folder.

    Args:
        config: what to read and how.
        progress: is told each step in a sentence.

    Returns:
        The dataset, opened from the folder.

    Raises:
        UserError: at the first thing that the user has to mend.
    """
    check_target(config.folder, config.overwrite)
    progress(f"reading {config.source}")
    found = _read(config, progress)
    progress(f"splitting {len(found.item):,} events ({config.split})")
    if config.split == "temporal":
        split = temporal(found.offsets, found.time)
    else:
        split = leave_one_out(found.offsets)
    progress(f"clustering {len(found.items):,} items ({config.clusters})")
    catalog = make_catalog(found, split, config)
    progress(f"writing {config.folder}")
    histories = {"slots": catalog.slot[found.item], "offsets": found.offsets}
    if found.time is not None:
        histories["times"] = found.time
    users = {
        "user": found.user_ids,
        "train_length": split.train_length,
        "valid_at": split.valid_at,
        "test_at": split.test_at,
    }
    items = found.items.append_column("slot", pa.array(catalog.slot))
    items = items.append_column("count", pa.array(catalog.count))
    return write_dataset(
        config.folder,
        _info(config, found, split, catalog),
        histories,
        pa.table(users),
        items,
        catalog.vectors,
        overwrite=config.overwrite,
    )


def make_catalog(found: Interactions, split: Split, config: PrepareConfig) -> Catalog:
    """Puts items into clusters, from training events alone."""
    users = np.repeat(np.arange(len(found.user_ids)), np.diff(found.offsets))
    training = split.in_training(found.offsets)
    users, item = users[training], found.item[training]
    num_items = len(found.items)
    num_clusters = config.num_clusters or max(round(num_items**0.5), 1)
    width, seed = config.vector_width, config.seed
    vectors = item_vectors(users, item, len(found.user_ids), num_items, width, seed)
    count = np.bincount(item, minlength=num_items)
    cluster = assign(config.clusters, vectors, count, num_clusters, seed)
    slot, room = place(cluster, num_clusters)
    sizes = np.bincount(cluster, minlength=num_clusters)
    info = ClustersInfo(
        method=config.clusters,
        vector_width=width,
        seed=seed,
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        consecutive_share=consecutive_share(cluster, item, users),
    )
    return Catalog(slot, count, vectors, num_clusters, room, info)


def _read(config: PrepareConfig, progress: Callable[[str], None]) -> Interactions:
    with tempfile.TemporaryDirectory(prefix="eqids-") as folder:
        con = ibis.duckdb.connect(temp_directory=f"{folder}/spilled")
        try:
            con.raw_sql("SET TimeZone = 'UTC'")
            source = open_source(con, config, Path(folder), progress)
            return read_interactions(con, source, config, progress)
        finally:
            con.disconnect()


def _info(
    config: PrepareConfig, found: Interactions, split: Split, catalog: Catalog
) -> DatasetInfo:
    return DatasetInfo(
        source=config.source,
        num_users=len(found.user_ids),
        num_items=len(found.items),
        num_events=len(found.item),
        num_clusters=catalog.num_clusters,
        room=catalog.room,
        protocol=_protocol(config, found, split),
        counts=_counts(found, split, catalog),
        clusters=catalog.info,
    )


def _protocol(config: PrepareConfig, found: Interactions, split: Split) -> Protocol:
    return Protocol(
        split=config.split,
        ties=found.ties,
        duplicates="kept" if found.time is None else "dropped",
        min_rating=config.min_rating,
        min_user_interactions=config.min_user_interactions,
        min_item_interactions=config.min_item_interactions,
        valid_from=split.valid_from,
        test_from=split.test_from,
        seed=config.seed,
    )


def _counts(found: Interactions, split: Split, catalog: Catalog) -> Counts:
    valid, test = split.valid_at >= 0, split.test_at >= 0
    return replace(
        found.counts,
        short_users=int((~valid & ~test).sum()),
        users_valid=int(valid.sum()),
        users_test=int(test.sum()),
        items_untrained=int((catalog.count == 0).sum()),
    )
