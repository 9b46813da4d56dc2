"""Prepares a dataset folder from raw interactions."""

import shlex
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from eqids.config import PrepareConfig, UserError
from eqids.data.catalog.appended_events import appended, check_appendable
from eqids.data.catalog.existing import ExtendedCatalog, in_catalog, shorter_histories
from eqids.data.catalog.lineage import Lineage
from eqids.data.clustering.cluster_items import Clustered, TextEncoder, make_catalog
from eqids.data.clustering.own_vectors import check_vectors
from eqids.data.dataset import Dataset
from eqids.data.ids import shown
from eqids.data.info import Counts, DatasetInfo, Protocol
from eqids.data.raw.collected_events import continued_info, with_protocol_of
from eqids.data.raw.event_engine import event_engine
from eqids.data.raw.interactions import Interactions, read_interactions
from eqids.data.raw.item_rows import read_ids
from eqids.data.raw.ordered_events import renumber
from eqids.data.raw.sources import open_source
from eqids.data.raw.splits import SplitPositions, leave_one_out, temporal
from eqids.data.raw.template import field
from eqids.data.read import open_dataset
from eqids.data.write import check_target, write_dataset


def prepare(
    config: PrepareConfig,
    report: Callable[[str], None],
    encode: TextEncoder | None = None,
    recorded_source: str | None = None,
) -> Dataset:
    """Reads a source, splits it, clusters its items and writes a dataset folder.

    Args:
        config: what to read and how.
        report: receives a message for each step.
        encode: makes vectors of texts, for --cluster_vectors text.
        recorded_source: what `dataset.json` says of the source, by default --source.

    Returns:
        The dataset, opened from the folder.

    Raises:
        UserError: the flags or the data are invalid; the message names the first fault.
    """
    check_target(config.folder, config.overwrite)
    check_vectors(config)
    old = None if config.catalog is None else open_dataset(config.catalog)
    if old is not None:
        config = _with_template(config, old, report)
        if config.source.startswith("events:"):
            config = with_protocol_of(old.info, config)
        if config.append is not None:
            check_appendable(old)
    report(f"reading {config.source}")
    found = _read(config, report, old if config.append is not None else None)
    _check_titles(config, found, report)
    report(f"splitting {len(found.item):,} events ({config.split})")
    if config.split == "temporal":
        split = temporal(found.offsets, found.time)
    else:
        split = leave_one_out(found.offsets)
    catalog, items, lineage = _placed(config, found, split, old, report, encode)
    info = replace(
        _info(config, found, split, catalog),
        source=recorded_source or config.source,
        num_items=items.num_rows,
        catalog_version=1 if lineage is None else lineage.version,
    )
    if old is not None:
        info = _continued(config, old.info, info)
    report(f"writing {config.folder}")
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


def _continued(
    config: PrepareConfig, old: DatasetInfo, info: DatasetInfo
) -> DatasetInfo:
    """Records what a dataset has from the one whose catalog it keeps."""
    if info.texts is None:
        info = replace(info, texts=old.texts)
    if config.source.startswith("events:"):
        return continued_info(old, info)
    if config.append is not None:
        return replace(info, time_unit=old.time_unit)
    return info


def _with_template(
    config: PrepareConfig, old: Dataset, report: Callable[[str], None]
) -> PrepareConfig:
    """Makes texts by the template of --catalog, unless --text gives another one."""
    texts = old.info.texts
    by_columns = config.source.startswith(("csv:", "parquet:", "events:"))
    if texts is None or (by_columns and config.items is None):
        return config
    template = texts.template
    if by_columns and template == field(texts.title_column):
        template = field(config.title_column)
    if config.text is None:
        report(f"texts of items are made by the template {template!r} of {old.path}")
        return replace(config, text=template)
    if config.text != template:
        report(
            f"warning: --text is {config.text!r}, but the template of {old.path} is "
            f"{template!r}: only new items get texts by --text"
        )
    return config


def _placed(
    config: PrepareConfig,
    found: Interactions,
    split: SplitPositions,
    old: Dataset | None,
    report: Callable[[str], None],
    encode: TextEncoder | None,
) -> tuple[Clustered, pa.Table, Lineage | None]:
    """The slots of items, the rows of `items.parquet`, and the catalog's versions."""
    if old is None:
        how = config.cluster_file or config.clusters
        report(f"clustering {len(found.items):,} items ({how})")
        catalog = make_catalog(found, split, config, report, encode)
        items = found.items.append_column("slot", pa.array(catalog.slot))
        return catalog, items.append_column("count", pa.array(catalog.count)), None
    report(f"finding {len(found.items):,} items in {old.path}")
    append = config.unknown_items == "append"
    _report_lost(found, old, report)
    extended = in_catalog(found, split, old, append=append)
    moved = ""
    if extended.num_moved:
        moved = f", and {extended.num_moved:,} items got another slot"
    report(
        f"{extended.num_added:,} items are new to the catalog{moved}: it is at version "
        f"{extended.lineage.version}"
    )
    if extended.num_other_texts:
        report(
            f"warning: {extended.num_other_texts:,} items have another title or text "
            f"in {found.items_file} than in {old.path}: they keep those of {old.path}, "
            "on which its checkpoints were trained"
        )
    return _as_clustered(extended), extended.table, extended.lineage


def _report_lost(
    found: Interactions, old: Dataset, report: Callable[[str], None]
) -> None:
    fewer, gone = shorter_histories(found, old)
    if fewer or gone:
        report(
            f"warning: of the {old.num_users:,} users of {old.path} {gone:,} are not "
            f"in the source and {fewer:,} have fewer events in it: the source must "
            "hold all events, old and new, because the new dataset has no others"
        )


def _check_titles(
    config: PrepareConfig, found: Interactions, report: Callable[[str], None]
) -> None:
    """Reports items without a title, and rows of the file that name no item."""
    if found.items_file is None:
        return
    file, counts, items = found.items_file, found.counts, found.items
    unnamed, unused = counts.items_unnamed, counts.item_rows_unused
    if unnamed == len(items) and config.items is not None:
        listed = read_ids(config.items, config.item_column)
        raise UserError(
            f"{config.items} names none of the {len(items):,} items, the first of "
            f"which is {shown(items['item'][0].as_py())}; column "
            f"{config.item_column!r} begins with {shown(listed[0].as_py())}, wanted "
            "the ids of the events"
        )
    if unnamed:
        report(
            f"warning: {file} does not name {unnamed:,} of {len(items):,} "
            "items; their ids are their titles"
        )
    if counts.items_untitled:
        report(
            f"warning: {file} has no title for {counts.items_untitled:,} of "
            f"{len(items):,} items; their ids are their titles"
        )
    if counts.item_rows_repeated:
        report(
            f"{file}: {counts.item_rows_repeated:,} of {counts.item_rows:,} rows "
            "repeat another row and are dropped"
        )
    if unused:
        kept = " that were kept" if counts.items_dropped else ""
        report(
            f"{file}: {unused:,} of {counts.item_rows:,} rows name no item of the "
            f"events{kept} and are left out; to add them later: {_add_command(config)}"
        )


def _add_command(config: PrepareConfig) -> str:
    """The command that adds the items of a file that have no events."""
    command = ["python", "-m", "eqids.catalog", "add"]
    command += ["--data_dir", str(config.folder)]
    if config.items is None:
        return shlex.join(command) + " --items FILE (CSV or Parquet)"
    command += ["--items", str(config.items), "--skip_known"]
    if config.item_column != "item_id":
        command += ["--item_column", config.item_column]
    return shlex.join(command)


def _histories(found: Interactions, catalog: Clustered) -> dict[str, np.ndarray]:
    # In place, because there may be more events than memory holds.
    renumber(found.item, catalog.slot)
    histories = {"slots": found.item, "offsets": found.offsets}
    return histories if found.time is None else {**histories, "times": found.time}


def _users(found: Interactions, split: SplitPositions) -> pa.Table:
    return pa.table(
        {
            "user": found.user_ids,
            "train_length": split.train_length,
            "valid_at": split.valid_at,
            "test_at": split.test_at,
        }
    )


def _as_clustered(extended: ExtendedCatalog) -> Clustered:
    catalog = extended.catalog
    return Clustered(
        slot=extended.slot,
        count=catalog.count,
        vectors=catalog.vectors,
        num_clusters=catalog.num_clusters,
        cluster_size=catalog.cluster_size,
        info=extended.info,
    )


def _read(
    config: PrepareConfig, report: Callable[[str], None], before: Dataset | None
) -> Interactions:
    """The events of --source, after those of a dataset if one is given."""
    with event_engine(config) as reader:
        source = open_source(reader, config, report)
        if before is None:
            return read_interactions(reader, source, config, report)
        # All events together say how ties are ordered.
        source = replace(source, keeps_ties=True)
        new = read_interactions(reader, source, config, report)
        report(f"merging {len(new.item):,} events with those of {before.path}")
        return appended(before, new, reader.folder)


def _info(
    config: PrepareConfig,
    found: Interactions,
    split: SplitPositions,
    catalog: Clustered,
) -> DatasetInfo:
    return DatasetInfo(
        source=config.source,
        num_users=len(found.user_ids),
        num_items=len(found.items),
        num_events=len(found.item),
        num_clusters=catalog.num_clusters,
        cluster_size=catalog.cluster_size,
        time_unit=found.time_unit,
        protocol=_protocol(config, found, split),
        counts=_counts(found, split, catalog),
        clusters=catalog.info,
        texts=found.texts,
    )


def _protocol(
    config: PrepareConfig, found: Interactions, split: SplitPositions
) -> Protocol:
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


def _counts(found: Interactions, split: SplitPositions, catalog: Clustered) -> Counts:
    valid, test = split.valid_at >= 0, split.test_at >= 0
    return replace(
        found.counts,
        short_users=int((~valid & ~test).sum()),
        users_valid=int(valid.sum()),
        users_test=int(test.sum()),
        items_untrained=int((catalog.count == 0).sum()),
    )
