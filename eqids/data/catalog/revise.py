"""Reads a dataset's catalog, and writes the dataset with the next version of it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eqids.config import UserError, require
from eqids.config.slots import cluster_of
from eqids.data.catalog.lineage import Change
from eqids.data.catalog.living_catalog import Catalog
from eqids.data.clustering.quality import balance, consecutive_share, random_share
from eqids.data.dataset import Dataset
from eqids.data.files import ITEM_FLAG, ITEMS_FILE, USERS_FILE, read_parquet
from eqids.data.ids import Ids, shown
from eqids.data.info import ClustersInfo
from eqids.data.write import write_dataset


def catalog_of(dataset: Dataset) -> Catalog:
    """Returns the catalog of a dataset; its rows are those of `items.parquet`."""
    table = _items(dataset)
    slot = table["slot"].to_numpy().astype(np.int32)
    return Catalog(
        items=ids_of(table["item"]),
        slot=slot,
        retired=dataset.retired.reshape(-1)[slot],
        count=dataset.item_counts.reshape(-1)[slot],
        vectors=dataset.item_vectors.reshape(dataset.num_slots, -1)[slot],
        num_clusters=dataset.info.num_clusters,
        cluster_size=dataset.info.cluster_size,
        version=dataset.info.catalog_version,
    )


def ids_of(column: pa.ChunkedArray) -> np.ndarray:
    """Returns item ids [item] as a catalog holds them: integers, or objects."""
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    ids = np.empty(len(column), object)
    ids[:] = column.to_pylist()
    return ids


def item_ids(dataset: Dataset) -> Ids:
    """Returns the item ids of a catalog, in the order of `catalog_of`."""
    return Ids(read_parquet(dataset.path / ITEMS_FILE, ["item"])["item"])


def typed_like(column: pa.ChunkedArray, existing: Ids) -> pa.ChunkedArray:
    """Returns item ids of events, cast to the type of a catalog's ids.

    Raises:
        UserError: the type cannot hold an id.
    """
    _, ids = existing.read(column)
    wrong = np.flatnonzero(ids.is_null())
    if not len(wrong):
        return ids
    others = f", and neither are {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
    raise UserError(
        f"item {shown(column[int(wrong[0])].as_py())} is no id of the catalog's type, "
        f"{existing.kind}{others}"
    )


def item_table(
    dataset: Dataset, catalog: Catalog, named: pa.Table | None = None
) -> pa.Table:
    """Returns the rows of `items.parquet` for another version of a dataset's catalog.

    Args:
        dataset: has the titles and texts of existing items.
        catalog: the other version.
        named: columns item, title and text; rows of existing items are ignored.
    """
    old = _items(dataset)
    still = old.filter(pa.array(catalog.find(ids_of(old["item"])) >= 0))
    parts = [still] if named is None else [named, still]
    columns = {"title": np.full(len(catalog.items), "", object)}
    columns["text"] = columns["title"].copy()
    for part in parts:
        rows = catalog.rows(ids_of(part["item"]))
        for name, values in columns.items():
            values[rows] = part[name].to_pylist()
    return pa.table(
        {
            "slot": catalog.slot,
            "item": pa.array(catalog.items.tolist(), old["item"].type),
            "title": pa.array(columns["title"], pa.string()),
            "text": pa.array(columns["text"], pa.string()),
            "count": catalog.count,
            ITEM_FLAG: catalog.retired,
        }
    )


def num_other_texts(dataset: Dataset, named: pa.Table) -> int:
    """Counts the existing items that a file gives another title or text.

    They keep the old ones, because checkpoints were trained on them.

    Args:
        dataset: has the titles and texts of existing items.
        named: columns item, title and text; the title is the id and the text is empty
            where the file does not name an item.
    """
    old = _items(dataset)
    place = pc.index_in(old["item"], value_set=named["item"].combine_chunks())
    exists = place.is_valid()
    old, new = old.filter(exists), named.take(place.filter(exists))
    same = pc.and_(*(pc.equal(old[name], new[name]) for name in ("title", "text")))
    silent = pc.and_(
        pc.equal(new["title"], new["item"].cast(pa.string())), pc.equal(new["text"], "")
    )
    return int(pc.sum(pc.invert(pc.or_(same, silent))).as_py() or 0)


def revise(
    dataset: Dataset,
    catalog: Catalog,
    change: Change,
    named: pa.Table | None = None,
) -> Dataset:
    """Replaces a dataset folder by one with the next version of its catalog.

    Histories and targets are the same, in the slots of the new version.

    Args:
        dataset: a dataset with the present version of the catalog.
        catalog: the next version.
        change: the change from the present version to the next.
        named: columns item, title and text of the added items.

    Returns:
        The dataset, opened from the folder.
    """
    require(
        catalog.version == dataset.info.catalog_version + 1,
        f"{dataset.path} has version {dataset.info.catalog_version} of its catalog; "
        f"version {catalog.version} is not the next",
    )
    slots = change.moves(dataset.num_slots)[dataset.slots]
    users = np.repeat(np.arange(dataset.num_users), np.diff(dataset.offsets))
    training = (
        np.arange(len(users)) - dataset.offsets[users] < dataset.train_length[users]
    )
    before = dataset.info.clusters
    info = replace(
        dataset.info,
        num_items=len(catalog.items),
        num_clusters=catalog.num_clusters,
        catalog_version=catalog.version,
        clusters=clusters_info(before, catalog, slots[training], users[training]),
    )
    histories = {"slots": slots, "offsets": dataset.offsets}
    if dataset.times is not None:
        histories["times"] = dataset.times
    return write_dataset(
        dataset.path,
        info,
        histories,
        read_parquet(dataset.path / USERS_FILE),
        item_table(dataset, catalog, named),
        catalog.vectors,
        overwrite=True,
        lineage=dataset.lineage.followed(dataset.info.catalog_id, change),
    )


def clusters_info(
    before: ClustersInfo, catalog: Catalog, slots: np.ndarray, users: np.ndarray
) -> ClustersInfo:
    """Returns the measures of the clusters in another version of a catalog.

    Args:
        before: the measures of the first version.
        catalog: the other version.
        slots: int [event], training events only.
        users: int [event].
    """
    num_slots = catalog.num_clusters * catalog.cluster_size
    cluster = cluster_of(np.arange(num_slots), catalog.cluster_size)
    return replace(
        before,
        **balance(catalog.sizes, catalog.cluster_size),
        consecutive_share=consecutive_share(cluster, slots, users),
        random_share=random_share(catalog.sizes, slots, users),
    )


def _items(dataset: Dataset) -> pa.Table:
    return read_parquet(dataset.path / ITEMS_FILE)
