"""What `python -m eqids.catalog` does once its flags are read."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa

from eqids.cli import say
from eqids.config import (
    AddConfig,
    GrowConfig,
    MigrateConfig,
    RebalanceConfig,
    RetireConfig,
    ShowConfig,
    UserError,
)
from eqids.data import Dataset, open_dataset
from eqids.data.catalog.lineage import Change
from eqids.data.catalog.living_catalog import Catalog
from eqids.data.catalog.named_items import NamedItems, read_items, read_vectors
from eqids.data.catalog.revise import (
    catalog_of,
    item_ids,
    num_other_texts,
    revise,
)
from eqids.data.ids import Ids, shown, typed_ids
from eqids.data.raw.item_rows import read_ids
from eqids.data.raw.template import field

Config = AddConfig | RetireConfig | GrowConfig | RebalanceConfig | MigrateConfig


@dataclass(frozen=True)
class _Next:
    """A version of a catalog, and how it comes about."""

    catalog: Catalog
    """What `Catalog` makes of the present version."""
    change: Change
    """What leads to it."""
    named: pa.Table | None = None
    """Columns item, title and text of the items that it adds."""
    skipped: int = 0
    """Items that were left out, for they are there or gone already."""
    repeated: int = 0
    """Rows or ids that name an item again."""


def change_catalog(config: Config | ShowConfig) -> None:
    """Changes a catalog, migrates a checkpoint, and says what became of both."""
    dataset = open_dataset(config.data_dir)
    if isinstance(config, ShowConfig):
        say("\n".join(_shown(dataset)))
        return
    before = catalog_of(dataset)
    after = _next(config, dataset, before)
    if config.checkpoint is not None:
        _with_checkpoint(config, dataset, before, after)
    else:
        if not config.dry_run:
            _revised(dataset, after)
        say(_summary(before, after))
    if config.dry_run:
        say("nothing was written (--dry_run)")


def _next(config: Config, dataset: Dataset, catalog: Catalog) -> _Next:
    if isinstance(config, AddConfig):
        return _add(config, dataset, catalog)
    if isinstance(config, RetireConfig):
        return _retire(config, dataset, catalog)
    if isinstance(config, GrowConfig):
        more = config.clusters
        if more is None:
            assert config.free_share is not None
            places = len(catalog.items) / (1 - config.free_share)
            more = int(np.ceil(places / catalog.cluster_size)) - catalog.num_clusters
        if more > 0 or config.clusters is not None:
            return _Next(*catalog.grow(more))
    if isinstance(config, RebalanceConfig):
        unused = catalog.retired & ~np.isin(catalog.slot, dataset.slots)
        forget = catalog.items[unused]
        return _Next(*catalog.rebalance(config.free_share, forget))
    return _Next(catalog, Change(catalog.num_clusters))


def _add(config: AddConfig, dataset: Dataset, catalog: Catalog) -> _Next:
    known = item_ids(dataset)
    found = _named(config, dataset, known)
    if found.num_untitled:
        say(
            f"warning: {config.items} has no title for {found.num_untitled:,} of "
            f"{len(found.ids):,} items; their ids are their titles"
        )
    vectors = None
    if config.vectors is not None:
        width = catalog.vectors.shape[1]
        vectors = read_vectors(config.vectors, config.items, found.item_of_row, width)
    row, kept = catalog.find(found.ids), np.ones(len(found.ids), np.bool_)
    if config.skip_known:
        kept = (row < 0) | catalog.retired[row]
    new, similar = np.flatnonzero(kept), found.similar
    change = catalog.add(
        found.ids[new],
        None if vectors is None else vectors[new],
        None
        if similar is None
        else [catalog.items[rows] for rows in similar.rows(new, known)],
    )
    table, skipped = found.table.take(new), len(found.ids) - len(new)
    other = num_other_texts(dataset, table)
    if other:
        say(f"{other:,} items that are back keep the title and text that they had")
    return _Next(*change, table, skipped, found.num_repeated)


def _named(config: AddConfig, dataset: Dataset, known: Ids) -> NamedItems:
    """The items of --items, with texts as the dataset makes them."""
    text, texts = config.text, dataset.info.texts
    if config.text_column is not None:
        text = field(config.text_column)
    if text is not None and texts is not None and text != texts.template:
        say(
            f"texts of these items are made by {text!r}, those of {dataset.path} by "
            f"{texts.template!r}"
        )
    return read_items(
        config.items,
        known,
        config.item_column,
        config.title_column,
        text,
        config.similar_column,
        texts,
        f"the template of {dataset.path},",
    )


def _retire(config: RetireConfig, dataset: Dataset, catalog: Catalog) -> _Next:
    given, known = _given_ids(config), item_ids(dataset)
    numbers, _ = known.number(given)
    first = np.sort(np.unique(numbers, return_index=True)[1])
    row, repeated = numbers[first], len(numbers) - len(first)
    unknown = row >= len(known)
    if unknown.any() and not config.skip_unknown:
        _refuse_unknown(config, dataset, given, first[unknown])
    kept = ~unknown
    if config.skip_known:
        kept[kept] = ~catalog.retired[row[kept]]
    skipped = int((~kept).sum())
    change = catalog.retire(catalog.items[row[kept]])
    return _Next(*change, skipped=skipped, repeated=repeated)


def _given_ids(config: RetireConfig) -> pa.ChunkedArray:
    """The ids to retire, as they are given."""
    if config.items is not None:
        return read_ids(config.items, config.item_column)
    assert config.ids is not None
    return pa.chunked_array([pa.array(typed_ids(config.ids), pa.string())])


def _refuse_unknown(
    config: RetireConfig, dataset: Dataset, given: pa.ChunkedArray, places: np.ndarray
) -> NoReturn:
    where = "--ids" if config.items is None else f"{config.items}, row {places[0] + 1}"
    more = f", and neither are {len(places) - 1:,} others" if len(places) > 1 else ""
    first = shown(given[int(places[0])].as_py())
    raise UserError(
        f"{where}: item {first} is not in the catalog of {dataset.path}{more}; "
        "leave out such items with --skip_unknown"
    )


def _with_checkpoint(
    config: Config, dataset: Dataset, before: Catalog, after: _Next
) -> None:
    # Imported here: a command that needs no model does not wait for jax.
    from eqids.migrate.checkpoint_migration import Migration, report

    assert config.checkpoint is not None
    migration = Migration(
        config.checkpoint,
        config.output,
        dataset,
        after.catalog.version,
        config.llama_path,
        config.tokenizer,
    )
    if config.dry_run:
        say(_summary(before, after))
        say(f"{migration.path} becomes {migration.target}")
        return
    metrics = {"before": migration.before(after.change)}
    dataset = _revised(dataset, after)
    say(_summary(before, after))
    metrics["after"] = migration.write(dataset)
    say(f"{migration.path} became {migration.target}")
    say(report(metrics))
    say(
        "to go on with the same run, its optimizer included, repeat its command with "
        f"--data_dir {dataset.path} --checkpoint_dir {migration.target.parent}; to "
        f"start anew from its weights: --load_checkpoint {migration.target}"
    )


def _revised(dataset: Dataset, after: _Next) -> Dataset:
    """The dataset with the next version of its catalog, where there is one."""
    if after.catalog.version == dataset.info.catalog_version:
        return dataset
    return revise(dataset, after.catalog, after.change, after.named)


def _summary(before: Catalog, next_: _Next) -> str:
    after, change = next_.catalog, next_.change
    counts = {"items left out": next_.skipped, "named again": next_.repeated}
    others = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    left_out = f" ({others})" if others else ""
    if after.version == before.version:
        return f"version {before.version} stays as it is{left_out}"
    forgotten = len(before.items) + len(change.added) - len(after.items)
    counts = {
        "added": len(change.added),
        "back": len(change.revived),
        "retired": len(change.retired),
        "forgotten": forgotten,
        "moved": len(change.left),
    }
    did = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    said = f"version {after.version}: items {did or 'as before'}{left_out}; "
    return said + _sizes(after) + _placed_anywhere(after, change)


def _placed_anywhere(catalog: Catalog, change: Change) -> str:
    """Where new items went of which nothing is known."""
    row_of = np.full(catalog.num_clusters * catalog.cluster_size, -1)
    row_of[catalog.slot] = np.arange(len(catalog.slot))
    unknown = ~catalog.vectors[row_of[change.added]].any(axis=1)
    if not unknown.any():
        return ""
    clusters = np.unique(change.added[unknown] // catalog.cluster_size)
    shown = ", ".join(map(str, clusters[:5])) + (", …" if len(clusters) > 5 else "")
    return (
        f"\nnothing is known of {int(unknown.sum()):,} new items (no --vectors, no "
        "similar items): they went where most places were free, to cluster"
        f"{'s' if len(clusters) > 1 else ''} {shown}"
    )


def _sizes(catalog: Catalog) -> str:
    num_slots = catalog.num_clusters * catalog.cluster_size
    free = num_slots - len(catalog.items)
    empty = int((catalog.sizes == 0).sum())
    return (
        f"{catalog.num_clusters:,} clusters of {catalog.cluster_size:,} places "
        f"({empty:,} empty), {free:,} places free ({free / num_slots:.1%})"
    )


def _shown(dataset: Dataset) -> list[str]:
    catalog, lineage = catalog_of(dataset), dataset.lineage
    lines = [f"version 1: {len(lineage.valid):,} clusters"]
    for version, change in enumerate(lineage.changes, start=2):
        lines.append(
            f"version {version}: {change.num_clusters:,} clusters; {len(change.added)} "
            f"items added, {len(change.revived)} back, {len(change.retired)} retired, "
            f"{len(change.left)} moved"
        )
    retired = int(catalog.retired.sum())
    full = int((catalog.sizes == catalog.cluster_size).sum())
    lines.append(
        f"{len(catalog.items):,} items, {retired:,} of them retired; "
        f"{_sizes(catalog)}, {full:,} clusters full"
    )
    if dataset.info.texts is not None:
        lines.append(f"texts     {dataset.info.texts.template!r}")
    lines.append(f"catalog   {dataset.info.catalog_id}")
    return lines
