"""A living catalog: items are added and retired, and clusters divide; slots stay.

A catalog is a value. Every operation returns the next version and what changed, by
which histories and checkpoints are brought along. The laws: `room` never changes and
no cluster is taken away; an item's slot changes only when its cluster divides and
it is of a part that moves; a slot is its item's while the item is in the catalog,
retired or not.
"""

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eqids.config import UserError, require
from eqids.data.catalog.assignment import Assignment, assign_new, grown, spread
from eqids.data.catalog.lineage import Change

ItemIds = Sequence[Hashable] | np.ndarray
"""Item ids, as the user gave them."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items, where they stand, and how they are used."""

    items: np.ndarray
    """[item]: ids as the user gave them, each once: integers or objects."""
    slot: np.ndarray
    """int32 [item]: cluster * cluster_size + place."""
    retired: np.ndarray
    """bool [item]: whether it stands in histories only: never a target, never
    recommended, in no normalizer."""
    count: np.ndarray
    """int64 [item]: training events."""
    vectors: np.ndarray
    """float32 [item, vector_width]: near for similar items; zeros: nothing known."""
    num_clusters: int
    """Clusters, empty ones included."""
    cluster_size: int
    """Places in a cluster."""
    version: int = 1
    """Counts the changes, from 1."""

    @property
    def sizes(self) -> np.ndarray:
        """int64 [cluster]: places taken, by retired items too."""
        return np.bincount(self.slot // self.cluster_size, minlength=self.num_clusters)

    @property
    def item_valid(self) -> np.ndarray:
        """bool [cluster, place]: places of items that are not retired."""
        valid = np.zeros((self.num_clusters, self.cluster_size), np.bool_)
        valid.reshape(-1)[self.slot[~self.retired]] = True
        return valid

    def rows(self, items: ItemIds) -> np.ndarray:
        """The rows of item ids, int64 [item].

        Raises:
            UserError: naming the first id that the catalog does not hold.
        """
        found = self.find(items)
        _refuse(items, found < 0, "is not in the catalog")
        return found

    def find(self, items: ItemIds) -> np.ndarray:
        """The rows of item ids, int64 [item]; -1 for those that are not there."""
        return self._index.get_indexer(pd.Index(_objects(items), dtype=object))

    def add(
        self,
        items: ItemIds,
        vectors: np.ndarray | None = None,
        similar: Sequence[ItemIds] | None = None,
        counts: np.ndarray | None = None,
    ) -> tuple["Catalog", Change]:
        """Adds items, each in a free place of the cluster nearest to its vector.

        A cluster that has too few places divides first. Items of which nothing is
        known go where most places are free. A retired item that is added becomes
        valid again, in the place that it never left.

        Args:
            items: ids, each once.
            vectors: float32 [item, vector_width]; by default the mean of those of
                the similar items, and zeros where there are none.
            similar: ids of items of the catalog that each resembles.
            counts: int [item], training events; by default none.

        Raises:
            UserError: naming an item that is there already or given twice, or a
                similar one that is not there.
        """
        found = self.find(items)
        _refuse(items, pd.Index(_objects(items)).duplicated(), "is given twice")
        there = found >= 0
        new, known = np.flatnonzero(~there), found[there]
        there[there] = ~self.retired[known]
        _refuse(items, there, "is in the catalog already")
        near = self._similar(similar, len(items))[new]
        new_vectors = self._means(near) if vectors is None else vectors[new]
        counts = np.zeros(len(items), np.int64) if counts is None else counts
        assignment = assign_new(
            self.slot, self.vectors, new_vectors, self.num_clusters, self.cluster_size
        )
        retired = self.retired.copy()
        retired[known] = False
        nobody = np.zeros(len(new), np.bool_)
        after = replace(
            self,
            items=_joined(self.items, _objects(items)[new]),
            slot=assignment.slot,
            retired=np.concatenate([retired, nobody]),
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
                revived=assignment.slot[known],
            ),
        )

    def retire(self, items: ItemIds) -> tuple["Catalog", Change]:
        """Retires items: they keep slots and vectors, and appear in histories only.

        Raises:
            UserError: naming an item that is not in the catalog, or retired already.
        """
        rows = self.rows(items)
        _refuse(items, self.retired[rows], "is retired already")
        retired = self.retired.copy()
        retired[rows] = True
        change = Change(self.num_clusters, retired=self.slot[np.unique(rows)])
        return replace(self, retired=retired)._next(self, change)

    def release(self, items: ItemIds) -> tuple["Catalog", Change]:
        """Forgets retired items that no history needs, which frees their places.

        Raises:
            UserError: naming an item that is not in the catalog, or not retired.
        """
        rows = self.rows(items)
        _refuse(items, ~self.retired[rows], "is not retired")
        kept = np.ones(len(self.items), np.bool_)
        kept[rows] = False
        names = ("items", "slot", "retired", "count", "vectors")
        after = replace(self, **{name: getattr(self, name)[kept] for name in names})
        return after._next(self, Change(self.num_clusters))

    def grow(self, num_clusters: int) -> tuple["Catalog", Change]:
        """Adds empty clusters: so many, or more to keep a multiple of 64."""
        require(num_clusters >= 1, f"{num_clusters} clusters to add, wanted 1 or more")
        total = grown(self.num_clusters, num_clusters)
        require(
            total * self.cluster_size < 2**31,
            f"{num_clusters} clusters to add make {total * self.cluster_size} places, "
            f"wanted less than {2**31}",
        )
        return replace(self, num_clusters=total)._next(self, Change(total))

    def split(self, cluster: int) -> tuple["Catalog", Change]:
        """Divides a cluster in two; one half moves to an empty or added cluster.

        Raises:
            UserError: if the cluster holds fewer than two items.
        """
        require(
            0 <= cluster < self.num_clusters and bool(self.sizes[cluster] > 1),
            f"cluster {cluster} does not hold two items, wanted one that can divide",
        )
        return self._spread(np.array([cluster]), self.cluster_size)

    def rebalance(
        self, free_share: float, forget: ItemIds = ()
    ) -> tuple["Catalog", Change]:
        """Divides the clusters in which less than a share of the places is free.

        Args:
            free_share: from 0 to less than 1.
            forget: retired items to release first.
        """
        require(
            0 <= free_share < 1,
            f"free_share is {free_share}, wanted at least 0 and less than 1",
        )
        # 0.9 of 10 places is 9, whatever floating point says.
        most = max(1, int(self.cluster_size * (1 - free_share) + 1e-9))
        kept, _ = self.release(forget)
        after, change = kept._spread(np.flatnonzero(kept.sizes > most), most)
        return after._next(self, change)

    def _spread(self, crowded: np.ndarray, most: int) -> tuple["Catalog", Change]:
        assignment = spread(
            self.slot, self.vectors, self.num_clusters, self.cluster_size, crowded, most
        )
        after = replace(self, slot=assignment.slot, num_clusters=assignment.num_clusters)
        return after._next(self, self._change(assignment))

    def _change(self, assignment: Assignment, **more: np.ndarray) -> Change:
        moved = np.flatnonzero(assignment.slot[: len(self.slot)] != self.slot)
        return Change(
            assignment.num_clusters,
            left=self.slot[moved],
            entered=assignment.slot[moved],
            opened=assignment.opened,
            parent=assignment.parent,
            **more,
        )

    def _next(self, before: "Catalog", change: Change) -> tuple["Catalog", Change]:
        """Counts the version up, unless nothing has changed."""
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
    cluster, uses = after.slot // after.cluster_size, after.count + 1.0
    old = np.where(after.retired, 0.0, uses)[:num_old]
    size = after.num_clusters
    there = np.bincount(cluster[:num_old], old, minlength=size)
    new_vectors = np.bincount(cluster[num_old:], uses[num_old:], minlength=size)
    total = np.where(there > 0, there, new_vectors)
    return (uses[num_old:] / total[cluster[num_old:]]).astype(np.float32)
