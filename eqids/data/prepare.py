"""From raw interactions to a dataset folder."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from eqids.config import PrepareConfig, require
from eqids.data.clustering import Clustered, Reader, make_catalog
from eqids.data.dataset import Dataset, open_dataset
from eqids.data.info import Counts, DatasetInfo, Protocol
from eqids.data.interactions import Interactions, read_interactions
from eqids.data.known import Known, in_catalog, shorter_histories
from eqids.data.lineage import Lineage
from eqids.data.own_vectors import check_vectors
from eqids.data.sources import open_source
from eqids.data.split import Split, leave_one_out, temporal
from eqids.data.tables import engine
from eqids.data.write import check_target, write_dataset


def prepare(
    config: PrepareConfig,
    progress: Callable[[str], None],
    read: Reader | None = None,
) -> Dataset:
    """Reads a source, splits it, clusters its items and writes a dataset folder.

    Args:
        config: what to read and how.
        progress: is told each step in a sentence.
        read: makes vectors of texts, where clusters want them of a Llama.

    Returns:
        The dataset, opened from the folder.

    Raises:
        UserError: at the first thing that the user has to mend.
    """
    check_target(config.folder, config.overwrite)
    check_vectors(config)
    old = None if config.catalog is None else open_dataset(config.catalog)
    progress(f"reading {config.source}")
    found = _read(config, progress)
    _check_titles(config, found, progress)
    progress(f"splitting {len(found.item):,} events ({config.split})")
    if config.split == "temporal":
        split = temporal(found.offsets, found.time)
    else:
        split = leave_one_out(found.offsets)
    catalog, items, lineage = _placed(config, found, split, old, progress, read)
    info = replace(
        _info(config, found, split, catalog),
        num_items=items.num_rows,
        catalog_version=1 if lineage is None else lineage.version,
    )
    progress(f"writing {config.folder}")
    return write_dataset(
        config.folder,
        info,
        _histories(found, catalog),
        _users(found, split),
        items,
        catalog.vectors,
        overwrite=config.overwrite,
        lineage=lineage,
    )


def _placed(
    config: PrepareConfig,
    found: Interactions,
    split: Split,
    old: Dataset | None,
    progress: Callable[[str], None],
    read: Reader | None,
) -> tuple[Clustered, pa.Table, Lineage | None]:
    """Where items stand, the rows of `items.parquet`, and the catalog's versions."""
    if old is None:
        progress(f"clustering {len(found.items):,} items ({config.clusters})")
        catalog = make_catalog(found, split, config, progress, read)
        items = found.items.append_column("slot", pa.array(catalog.slot))
        return catalog, items.append_column("count", pa.array(catalog.count)), None
    progress(f"finding {len(found.items):,} items in {old.path}")
    append = config.unknown_items == "append"
    _tell_lost(found, old, progress)
    known = in_catalog(found, split, old, append=append)
    moved = f", and {known.num_moved:,} moved to make room" if known.num_moved else ""
    progress(
        f"{known.num_added:,} items are new to the catalog{moved}: it is at version "
        f"{known.lineage.version}"
    )
    return _as_clustered(known), known.table, known.lineage


def _tell_lost(
    found: Interactions, old: Dataset, progress: Callable[[str], None]
) -> None:
    fewer, gone = shorter_histories(found, old)
    if fewer or gone:
        progress(
            f"warning: of the {old.num_users:,} users of {old.path} {gone:,} are not "
            f"in the source and {fewer:,} have fewer events in it: it must hold all "
            "histories, old events and new ones, for the new dataset has no others"
        )


def _check_titles(
    config: PrepareConfig, found: Interactions, progress: Callable[[str], None]
) -> None:
    """Says how many items --items does not name; none is a mistake."""
    if config.items is None:
        return
    unnamed, items = found.num_unnamed, found.items
    require(
        unnamed < len(items),
        f"{config.items} names none of the {len(items):,} items, the first of which is "
        f"{items['item'][0].as_py()!r}; wanted their ids in column "
        f"{config.item_column!r}",
    )
    if unnamed:
        progress(
            f"warning: {config.items} does not name {unnamed:,} of {len(items):,} "
            "items; their ids are their titles"
        )


def _histories(found: Interactions, catalog: Clustered) -> dict[str, np.ndarray]:
    histories = {"slots": catalog.slot[found.item], "offsets": found.offsets}
    return histories if found.time is None else {**histories, "times": found.time}


def _users(found: Interactions, split: Split) -> pa.Table:
    return pa.table(
        {
            "user": found.user_ids,
            "train_length": split.train_length,
            "valid_at": split.valid_at,
            "test_at": split.test_at,
        }
    )


def _as_clustered(known: Known) -> Clustered:
    catalog = known.catalog
    return Clustered(
        slot=known.slot,
        count=catalog.count,
        vectors=catalog.vectors,
        num_clusters=catalog.num_clusters,
        room=catalog.room,
        info=known.info,
    )


def _read(config: PrepareConfig, progress: Callable[[str], None]) -> Interactions:
    with engine() as reader:
        source = open_source(reader, config, progress)
        return read_interactions(reader, source, config, progress)


def _info(
    config: PrepareConfig, found: Interactions, split: Split, catalog: Clustered
) -> DatasetInfo:
    return DatasetInfo(
        source=config.source,
        num_users=len(found.user_ids),
        num_items=len(found.items),
        num_events=len(found.item),
        num_clusters=catalog.num_clusters,
        room=catalog.room,
        time_unit=found.time_unit,
        protocol=_protocol(config, found, split),
        counts=_counts(found, split, catalog),
        clusters=catalog.info,
    )


def _protocol(config: PrepareConfig, found: Interactions, split: Split) -> Protocol:
    timed = found.time is not None
    return Protocol(
        split=config.split,
        ties=found.ties,
        duplicates="dropped" if timed or config.order_column else "kept",
        min_rating=config.min_rating,
        min_user_interactions=config.min_user_interactions,
        min_item_interactions=config.min_item_interactions,
        valid_from=split.valid_from,
        test_from=split.test_from,
        seed=config.seed,
        order_column=config.order_column,
    )


def _counts(found: Interactions, split: Split, catalog: Clustered) -> Counts:
    valid, test = split.valid_at >= 0, split.test_at >= 0
    return replace(
        found.counts,
        short_users=int((~valid & ~test).sum()),
        users_valid=int(valid.sum()),
        users_test=int(test.sum()),
        items_untrained=int((catalog.count == 0).sum()),
    )
