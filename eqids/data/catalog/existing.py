"""Prepares new interactions with an existing catalog: its items keep their slots."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import scipy.sparse
from jaxtyping import Int32

from eqids.config import UserError
from eqids.data.catalog.lineage import Lineage
from eqids.data.catalog.living_catalog import Catalog
from eqids.data.catalog.revise import (
    catalog_of,
    clusters_info,
    ids_of,
    item_ids,
    item_table,
    num_other_texts,
    typed_like,
)
from eqids.data.dataset import Dataset
from eqids.data.ids import Ids
from eqids.data.info import ClustersInfo
from eqids.data.raw.interactions import Interactions
from eqids.data.raw.splits import SplitPositions

_NEAR = 16
"""Most similar items that a new item gets."""


@dataclass(frozen=True, eq=False)
class ExtendedCatalog:
    """An existing catalog with new items, and the slots of the interactions' items."""

    catalog: Catalog
    """The catalog, with the counts of the new interactions."""
    slot: Int32[np.ndarray, " item"]
    """Slots in the order of `Interactions.items`."""
    table: pa.Table
    """The rows of `items.parquet`."""
    lineage: Lineage
    """All versions of the catalog."""
    info: ClustersInfo
    """Measures of its clusters."""
    num_added: int
    """Number of new items."""
    num_moved: int
    """Number of items whose slot changed because their cluster was divided."""
    num_other_texts: int
    """Number of items whose title or text differs in the source; they keep the old
    one."""


def in_catalog(
    found: Interactions, split: SplitPositions, old: Dataset, append: bool
) -> ExtendedCatalog:
    """Keeps the slots of existing items, and adds new ones.

    A new item's vector is the mean vector of the items next to it in training
    histories. Items without events keep their slots, and retired items stay retired.

    Args:
        found: the interactions.
        split: which interactions are for training.
        old: a dataset with the catalog.
        append: whether unknown items are added; otherwise they are refused.

    Raises:
        UserError: an unknown item is refused, or the catalog's type of ids cannot
            hold an id.
    """
    before = catalog_of(old)
    named = found.items.set_column(
        found.items.column_names.index("item"),
        "item",
        typed_like(found.items["item"], item_ids(old)),
    )
    ids = ids_of(named["item"])
    rows = before.find(ids)
    new = rows < 0
    if new.any() and not append:
        others = int(new.sum()) - 1
        more = f", and neither are {others:,} others" if others else ""
        raise UserError(
            f"item {ids[new].tolist()[0]!r} is not in the catalog of {old.path}{more}; "
            "add what is missing with --unknown_items append"
        )
    users = split.training_users()
    item = found.item[split.in_training(found.offsets)]
    together = _together(users, item, rows, new, len(before.items))
    catalog, change = before.add(
        ids[new],
        vectors=_mean_vectors(together, before.vectors),
        similar=[before.items[near] for near in _strongest(together)],
        counts=np.bincount(item, minlength=len(ids))[new],
    )
    lineage = old.lineage
    if catalog.version > before.version:
        lineage = lineage.followed(old.info.catalog_id, change)
    row = catalog.rows(ids)
    counts = np.bincount(row[item], minlength=len(catalog.items))
    catalog = replace(catalog, count=counts)
    slot = catalog.slot[row]
    info = clusters_info(old.info.clusters, catalog, slot[item], users)
    table = item_table(old, catalog, named)
    other = num_other_texts(old, named)
    added, moved = len(change.added), len(change.left)
    return ExtendedCatalog(catalog, slot, table, lineage, info, added, moved, other)


def shorter_histories(found: Interactions, old: Dataset) -> tuple[int, int]:
    """Counts the users of an old dataset that now have fewer events, and those with
    none.

    Args:
        found: the new interactions.
        old: the dataset before.
    """
    users = old.users()
    row = Ids(found.user_ids).find(users["user"])
    now = np.where(row >= 0, np.diff(found.offsets)[row], 0)
    fewer = (now < users["length"].to_numpy()) & (row >= 0)
    return int(fewer.sum()), int((row < 0).sum())


def _together(
    users: np.ndarray, item: np.ndarray, row: np.ndarray, new: np.ndarray, num_old: int
) -> scipy.sparse.csr_matrix:
    """How often each new item was next to each existing one, `[new, old]`.

    Args:
        users: int [event], ascending.
        item: int [event].
        row: int [item], in the catalog; -1 for new ones.
        new: bool [item].
        num_old: items in the catalog.
    """
    number = np.cumsum(new) - 1
    same = users[1:] == users[:-1]
    first, second = item[:-1][same], item[1:][same]
    one, other = np.append(first, second), np.append(second, first)
    kept = new[one] & ~new[other]
    pairs = (number[one[kept]], row[other[kept]])
    shape = (int(new.sum()), num_old)
    return scipy.sparse.csr_matrix((np.ones(len(pairs[0])), pairs), shape)


def _mean_vectors(together: scipy.sparse.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """float32 [new, vector_width]: zeros for items next to no existing one."""
    total = np.asarray(together.sum(axis=1)).reshape(-1, 1)
    return ((together @ vectors) / np.maximum(total, 1)).astype(np.float32)


def _strongest(together: scipy.sparse.csr_matrix) -> list[np.ndarray]:
    """For each new item, the existing items that it was next to most often."""
    ends = together.indptr
    spans = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return [
        together.indices[span][np.argsort(-together.data[span], kind="stable")[:_NEAR]]
        for span in spans
    ]
