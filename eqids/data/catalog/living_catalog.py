"""A catalog to which items are added, and from which they are retired.

A catalog is immutable. Every operation returns the next version and a `Change`, by
which histories and checkpoints are remapped. Invariants:

- `cluster_size` never changes, and clusters are never removed.
- An item's slot changes only when its cluster is divided and its part goes to another
  cluster.
- A slot belongs to its item while the item is in the catalog, retired or not.
"""

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Int32, Int64, Shaped

from eqids.config import UserError, require
from eqids.config.slots import cluster_of
from eqids.data.catalog.assignment import (
    Assignment,
    assign_new,
    divide_clusters,
    grown,
)
from eqids.data.catalog.lineage import Change

ItemIds = Sequence[Hashable] | np.ndarray
"""Item ids, as the user gave them."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items, their slots, and their use."""

    items: Shaped[np.ndarray, " item"]
    """Ids as the user gave them, each once: integers or objects."""
    slot: Int32[np.ndarray, " item"]
    """The slot of each item."""
    retired: Bool[np.ndarray, " item"]
    """Whether an item occurs only in histories: it is no target, is not recommended,
    and is in no normalizer."""
    count: Int64[np.ndarray, " item"]
    """Training events of each item."""
    vectors: Float32[np.ndarray, "item vector_width"]
    """Vectors, near for similar items; zeros for an item without information."""
    num_clusters: int
    """Clusters, empty ones included."""
    cluster_size: int
    """Places in a cluster."""
    version: int = 1
    """The number of the version, from 1."""

    @property
    def sizes(self) -> Int64[np.ndarray, " cluster"]:
        """Items of each cluster, retired ones included."""
        cluster = cluster_of(self.slot, self.cluster_size)
        return np.bincount(cluster, minlength=self.num_clusters)

    @property
    def item_valid(self) -> Bool[np.ndarray, "cluster place"]:
        """Whether a place holds an item that is not retired."""
        valid = np.zeros((self.num_clusters, self.cluster_size), np.bool_)
        valid.reshape(-1)[self.slot[~self.retired]] = True
        return valid

    def rows(self, items: ItemIds) -> Int[np.ndarray, " item"]:
        """Returns the rows of item ids.

        Raises:
            UserError: the catalog does not hold an id; the message names the first.
        """
        found = self.find(items)
        _refuse(items, found < 0, "is not in the catalog")
        return found

    def find(self, items: ItemIds) -> Int[np.ndarray, " item"]:
        """Returns the rows of item ids, -1 for ids that the catalog does not hold."""
        return self._index.get_indexer(pd.Index(_objects(items), dtype=object))

    def add(
        self,
        items: ItemIds,
        vectors: np.ndarray | None = None,
        similar: Sequence[ItemIds] | None = None,
        counts: np.ndarray | None = None,
    ) -> tuple["Catalog", Change]:
        """Adds items, each to a free place of the cluster nearest to its vector.

        A cluster with too few free places is divided first. Items without a vector
        go to the clusters with most free places. Adding a retired item makes it valid
        again, in the place that it kept.

        Args:
            items: ids, each once.
            vectors: float32 [item, vector_width]; by default the mean vector of the
                similar items, or zeros without similar items.
            similar: ids of items of the catalog that each new item resembles.
            counts: int [item], training events; by default none.

        Raises:
            UserError: an item is in the catalog already or given twice, or the
                catalog does not hold a similar one.
        """
        found = self.find(items)
        _refuse(items, pd.Index(_objects(items)).duplicated(), "is given twice")
        exists = found >= 0
        new, existing = np.flatnonzero(~exists), found[exists]
        exists[exists] = ~self.retired[existing]
        _refuse(items, exists, "is in the catalog already")
        near = self._similar(similar, len(items))[new]
        new_vectors = self._means(near) if vectors is None else vectors[new]
        counts = np.zeros(len(items), np.int64) if counts is None else counts
        assignment = assign_new(
            self.slot, self.vectors, new_vectors, self.num_clusters, self.cluster_size
        )
        retired = self.retired.copy()
        retired[existing] = False
        none_retired = np.zeros(len(new), np.bool_)
        after = replace(
            self,
            items=_joined(self.items, _objects(items)[new]),
            slot=assignment.slot,
            retired=np.concatenate([retired, none_retired]),
            count=np.concatenate([self.count, counts[new]]),
            vectors=np.concatenate([self.vectors, new_vectors.astype(np.float32)]),
            num_clusters=assignment.num_clusters,
        )
        return after._next(
            self,
            self._change(
                assignment,
                added=assignment.slot[len(self.slot) :],
                share=_shares(after, len(self.slot)),
                similar=np.append(self.slot, np.int32(-1))[near],
                revived=assignment.slot[existing],
            ),
        )

    def retire(self, items: ItemIds) -> tuple["Catalog", Change]:
        """Retires items: they keep slots and vectors, but occur in histories only.

        Raises:
            UserError: an item is not in the catalog, or is retired already.
        """
        rows = self.rows(items)
        _refuse(items, self.retired[rows], "is retired already")
        retired = self.retired.copy()
        retired[rows] = True
        change = Change(self.num_clusters, retired=self.slot[np.unique(rows)])
        return replace(self, retired=retired)._next(self, change)

    def release(self, items: ItemIds) -> tuple["Catalog", Change]:
        """Removes retired items that no history holds, and frees their places.

        Raises:
            UserError: an item is not in the catalog, or is not retired.
        """
        rows = self.rows(items)
        _refuse(items, ~self.retired[rows], "is not retired")
        kept = np.ones(len(self.items), np.bool_)
        kept[rows] = False
        names = ("items", "slot", "retired", "count", "vectors")
        after = replace(self, **{name: getattr(self, name)[kept] for name in names})
        return after._next(self, Change(self.num_clusters))

    def grow(self, num_clusters: int) -> tuple["Catalog", Change]:
        """Adds this number of empty clusters, or more to keep a multiple of 64."""
        require(num_clusters >= 1, f"{num_clusters} clusters to add, wanted 1 or more")
        total = grown(self.num_clusters, num_clusters)
        require(
            total * self.cluster_size < 2**31,
            f"{num_clusters} clusters to add make {total * self.cluster_size} places, "
            f"wanted less than {2**31}",
        )
        return replace(self, num_clusters=total)._next(self, Change(total))

    def rebalance(
        self, free_share: float, forget: ItemIds = ()
    ) -> tuple["Catalog", Change]:
        """Divides the clusters whose share of free places is less than `free_share`.

        Args:
            free_share: from 0 to less than 1.
            forget: retired items to release first.
        """
        require(
            0 <= free_share < 1,
            f"free_share is {free_share}, wanted at least 0 and less than 1",
        )
        # 0.9 of 10 places is 9, in spite of floating-point rounding.
        most = max(1, int(self.cluster_size * (1 - free_share) + 1e-9))
        kept, _ = self.release(forget)
        after, change = kept.divide(np.flatnonzero(kept.sizes > most), most)
        return after._next(self, change)

    def divide(
        self, full: Int[np.ndarray, " full"], most: int
    ) -> tuple["Catalog", Change]:
        """Divides clusters of two items or more into parts of at most `most` items."""
        assignment = divide_clusters(
            self.slot, self.vectors, self.num_clusters, self.cluster_size, full, most
        )
        after = replace(
            self, slot=assignment.slot, num_clusters=assignment.num_clusters
        )
        return after._next(self, self._change(assignment))

    def _change(self, assignment: Assignment, **more: np.ndarray) -> Change:
        moved = np.flatnonzero(assignment.slot[: len(self.slot)] != self.slot)
        return Change(
            assignment.num_clusters,
            left=self.slot[moved],
            entered=assignment.slot[moved],
            filled=assignment.filled,
            parent=assignment.parent,
            **more,
        )

    def _next(self, before: "Catalog", change: Change) -> tuple["Catalog", Change]:
        """Returns the next version, or the same catalog if nothing has changed."""
        same = (
            self.num_clusters == before.num_clusters
            and np.array_equal(self.slot, before.slot)
            and np.array_equal(self.retired, before.retired)
        )
        return (before if same else replace(self, version=before.version + 1)), change

    @functools.cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.items, dtype=self.items.dtype)

    def _similar(self, similar: Sequence[ItemIds] | None, num_items: int) -> np.ndarray:
        """int64 [item, near]: rows of the similar items, -1 where there are fewer."""
        named = similar or [()] * num_items
        sizes = np.array([len(ids) for ids in named], np.int64)
        near = np.full((num_items, int(sizes.max(initial=1))), -1, np.int64)
        held = np.arange(near.shape[1]) < sizes[:, None]
        near[held] = self.rows([one for ids in named for one in ids])
        return near

    def _means(self, near: np.ndarray) -> np.ndarray:
        """float32 [new, vector_width]: the mean vectors of similar items."""
        held = near >= 0
        rows = np.zeros((*near.shape, self.vectors.shape[1]), np.float32)
        rows[held] = self.vectors[near[held]]
        return rows.sum(axis=1) / np.maximum(held.sum(axis=1), 1)[:, None]


def _objects(items: ItemIds) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items.tolist() if isinstance(items, np.ndarray) else list(items)
    return out


def _joined(items: np.ndarray, new: np.ndarray) -> np.ndarray:
    """ItemIds, integers where all are."""
    whole = items.dtype != object and all(isinstance(x, int) for x in new)
    return np.concatenate([items, new.astype(items.dtype) if whole else new])


def _refuse(items: ItemIds, wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        item = _objects(items)[int(np.argmax(wrong))]
        raise UserError(f"item {item!r} {why}")


def _shares(after: Catalog, num_old: int) -> np.ndarray:
    """float32 [new]: see `Change.share`; retired items are not used."""
    cluster, uses = cluster_of(after.slot, after.cluster_size), after.count + 1.0
    old = np.where(after.retired, 0.0, uses)[:num_old]
    size = after.num_clusters
    of_old = np.bincount(cluster[:num_old], old, minlength=size)
    of_new = np.bincount(cluster[num_old:], uses[num_old:], minlength=size)
    total = np.where(of_old > 0, of_old, of_new)
    return (uses[num_old:] / total[cluster[num_old:]]).astype(np.float32)
