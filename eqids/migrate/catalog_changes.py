"""Plans what a command of `python -m eqids.catalog` changes; writes it when asked."""

from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from eqids.config import (
    AddConfig,
    ChangeConfig,
    GrowConfig,
    RebalanceConfig,
    RetireConfig,
    UserError,
)
from eqids.config.slots import cluster_of
from eqids.data import Dataset
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


@dataclass(frozen=True)
class GivenItems:
    """What is unusual about the items that a command was given."""

    num_items: int = 0
    """How many were given, each once."""
    left_out: int = 0
    """Items that --skip_known or --skip_unknown left out."""
    repeated: int = 0
    """Rows or ids that name an item again."""
    untitled: int = 0
    """Items without a title."""
    keep_texts: int = 0
    """Retired items that return with the title and text that they had, not the given
    ones."""
    template: str | None = None
    """The template of their texts, if it is another than the dataset's."""


@dataclass(frozen=True)
class PlannedChange:
    """The next version of a catalog, before it is written."""

    before: Catalog
    """The present version."""
    after: Catalog
    """The next version; the present one if nothing changes."""
    change: Change
    """What leads from one to the other."""
    added: pa.Table | None = None
    """Columns item, title and text of new items."""
    given: GivenItems = GivenItems()
    """What is unusual about the given items."""

    @property
    def num_forgotten(self) -> int:
        """How many items leave the catalog altogether."""
        return len(self.before.items) + len(self.change.added) - len(self.after.items)

    def clusters_without_vectors(self) -> Int[np.ndarray, " item"]:
        """Returns the clusters of new items that have a vector of zeros."""
        size = self.after.cluster_size
        row_of = np.full(self.after.num_clusters * size, -1)
        row_of[self.after.slot] = np.arange(len(self.after.slot))
        added = self.change.added
        unknown = ~self.after.vectors[row_of[added]].any(axis=1)
        return cluster_of(added[unknown], size)

    def write(self, dataset: Dataset) -> Dataset:
        """Writes the next version into the dataset folder, if anything changes.

        Args:
            dataset: with the present version.

        Returns:
            The dataset with the next version.
        """
        if self.after.version == dataset.info.catalog_version:
            return dataset
        return revise(dataset, self.after, self.change, self.added)


def plan_change(config: ChangeConfig, dataset: Dataset) -> PlannedChange:
    """Returns the version of a catalog that a command makes; nothing is written.

    Args:
        config: the command's flags.
        dataset: with the present version of the catalog.

    Raises:
        UserError: an item cannot be added or retired, or a file cannot be read.
    """
    catalog = catalog_of(dataset)
    if isinstance(config, AddConfig):
        return _add(config, dataset, catalog)
    if isinstance(config, RetireConfig):
        return _retire(config, dataset, catalog)
    if isinstance(config, GrowConfig):
        more = _num_new_clusters(config, catalog)
        if more > 0 or config.clusters is not None:
            return PlannedChange(catalog, *catalog.grow(more))
    if isinstance(config, RebalanceConfig):
        unused = catalog.retired & ~np.isin(catalog.slot, dataset.slots)
        forget = catalog.items[unused]
        return PlannedChange(catalog, *catalog.rebalance(config.free_share, forget))
    return PlannedChange(catalog, catalog, Change(catalog.num_clusters))


def _num_new_clusters(config: GrowConfig, catalog: Catalog) -> int:
    if config.clusters is not None:
        return config.clusters
    assert config.free_share is not None
    places = len(catalog.items) / (1 - config.free_share)
    return int(np.ceil(places / catalog.cluster_size)) - catalog.num_clusters


def _add(config: AddConfig, dataset: Dataset, catalog: Catalog) -> PlannedChange:
    existing = item_ids(dataset)
    template, found = _named(config, dataset, existing)
    vectors = None
    if config.vectors is not None:
        width = catalog.vectors.shape[1]
        vectors = read_vectors(config.vectors, config.items, found.item_of_row, width)
    row, kept = catalog.find(found.ids), np.ones(len(found.ids), np.bool_)
    if config.skip_known:
        kept = (row < 0) | catalog.retired[row]
    new, similar = np.flatnonzero(kept), found.similar
    after, change = catalog.add(
        found.ids[new],
        None if vectors is None else vectors[new],
        None
        if similar is None
        else [catalog.items[rows] for rows in similar.rows(new, existing)],
    )
    table = found.table.take(new)
    given = GivenItems(
        num_items=len(found.ids),
        left_out=len(found.ids) - len(new),
        repeated=found.num_repeated,
        untitled=found.num_untitled,
        keep_texts=num_other_texts(dataset, table),
        template=template,
    )
    return PlannedChange(catalog, after, change, table, given)


def _named(
    config: AddConfig, dataset: Dataset, existing: Ids
) -> tuple[str | None, NamedItems]:
    """Returns the template if it is another than the dataset's, and the new items."""
    text, texts = config.text, dataset.info.texts
    if config.text_column is not None:
        text = field(config.text_column)
    items = read_items(
        config.items,
        existing,
        config.item_column,
        config.title_column,
        text,
        config.similar_column,
        texts,
        f"the template of {dataset.path},",
    )
    is_other = texts is not None and text != texts.template
    return text if is_other else None, items


def _retire(config: RetireConfig, dataset: Dataset, catalog: Catalog) -> PlannedChange:
    ids, existing = _given_ids(config), item_ids(dataset)
    numbers, _ = existing.number(ids)
    first = np.sort(np.unique(numbers, return_index=True)[1])
    row = numbers[first]
    unknown = row >= len(existing)
    if unknown.any() and not config.skip_unknown:
        _refuse_unknown(config, dataset, ids, first[unknown])
    kept = ~unknown
    if config.skip_known:
        kept[kept] = ~catalog.retired[row[kept]]
    given = GivenItems(
        num_items=len(first),
        left_out=int((~kept).sum()),
        repeated=len(numbers) - len(first),
    )
    planned = PlannedChange(catalog, *catalog.retire(catalog.items[row[kept]]))
    return replace(planned, given=given)


def _given_ids(config: RetireConfig) -> pa.ChunkedArray:
    """Returns the ids to retire, with repetitions."""
    if config.items is not None:
        return read_ids(config.items, config.item_column)
    assert config.ids is not None
    return pa.chunked_array([pa.array(typed_ids(config.ids), pa.string())])


def _refuse_unknown(
    config: RetireConfig, dataset: Dataset, ids: pa.ChunkedArray, rows: np.ndarray
) -> NoReturn:
    where = "--ids" if config.items is None else f"{config.items}, row {rows[0] + 1}"
    more = f", and neither are {len(rows) - 1:,} others" if len(rows) > 1 else ""
    raise UserError(
        f"{where}: item {shown(ids[int(rows[0])].as_py())} is not in the catalog of "
        f"{dataset.path}{more}; leave out such items with --skip_unknown"
    )
