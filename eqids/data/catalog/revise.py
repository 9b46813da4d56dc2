"""A dataset's catalog as a value, and its next version on disk."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eqids.config import UserError, require
from eqids.data.catalog.lineage import Change
from eqids.data.catalog.living_catalog import Catalog
from eqids.data.clustering.quality import balance, consecutive_share, random_share
from eqids.data.dataset import Dataset
from eqids.data.files import ITEM_FLAG, ITEMS_FILE, USERS_FILE, read_parquet
from eqids.data.ids import Ids, shown
from eqids.data.info import ClustersInfo
from eqids.data.write import write_dataset


def catalog_of(dataset: Dataset) -> Catalog:
    """The catalog of a dataset; its rows are those of `items.parquet`."""
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
    """Item ids [item] as a catalog holds them: integers, or objects."""
    if pa.types.is_integer(column.type):
        return column.to_numpy()
    ids = np.empty(len(column), object)
    ids[:] = column.to_pylist()
    return ids


def item_ids(dataset: Dataset) -> Ids:
    """The item ids of a catalog, in the order of `catalog_of`."""
    return Ids(read_parquet(dataset.path / ITEMS_FILE, ["item"])["item"])


def spelled_like(column: pa.ChunkedArray, known: Ids) -> pa.ChunkedArray:
    """Item ids of events, of the type of a catalog's ids.

    Raises:
        UserError: naming the first id that the type cannot hold.
    """
    _, ids = known.read(column)
    wrong = np.flatnonzero(ids.is_null())
    if not len(wrong):
        return ids
    others = f", and neither are {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
    raise UserError(
        f"item ids are {known.kind} in the catalog: item "
        f"{shown(column[int(wrong[0])].as_py())} is no id of a catalog whose ids are "
        f"of that type{others}"
    )


def item_table(
    dataset: Dataset, catalog: Catalog, named: pa.Table | None = None
) -> pa.Table:
    """The rows of `items.parquet` for another version of a dataset's catalog.

    Args:
        dataset: with the titles and texts of items that it knows.
        catalog: the next version.
        named: columns item, title and text; those of known items are not looked at.
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
    """How many known items a file gives another title or text than they have.

    They keep those that they have, which checkpoints have read.

    Args:
        dataset: with the titles and texts of items that it knows.
        named: columns item, title and text; where nothing is said of an item its title
            is its id and its text empty.
    """
    old = _items(dataset)
    place = pc.index_in(old["item"], value_set=named["item"].combine_chunks())
    known = place.is_valid()
    old, new = old.filter(known), named.take(place.filter(known))
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
        dataset: as it is.
        catalog: the next version.
        change: what leads to it.
        named: columns item, title and text of the items that it adds.

    Returns:
        The dataset, opened from the folder.
    """
    require(
        catalog.version == dataset.info.catalog_version + 1,
        f"{dataset.path} has version {dataset.info.catalog_version} of its catalog, "
        f"which is not followed by version {catalog.version}",
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
    """What `dataset.json` says of the clusters of another version.

    Args:
        before: of the clusters as they were made.
        catalog: the other version.
        slots: int [event], training events only.
        users: int [event].
    """
    cluster = (
        np.arange(catalog.num_clusters * catalog.cluster_size) // catalog.cluster_size
    )
    return replace(
        before,
        **balance(catalog.sizes, catalog.cluster_size),
        consecutive_share=consecutive_share(cluster, slots, users),
        random_share=random_share(catalog.sizes, slots, users),
    )


def _items(dataset: Dataset) -> pa.Table:
    return read_parquet(dataset.path / ITEMS_FILE)
