"""The versions of a catalog, and the changes between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from eqids.config import UserError, require
from eqids.config.slots import cluster_of


def _none() -> np.ndarray:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Change:
    """The difference between one version of a catalog and the next.

    Items whose slot changes leave their old slots, `left`, first, so that `added` items
    may take these.
    """

    num_clusters: int
    """Clusters afterwards; never fewer than before."""
    left: np.ndarray = field(default_factory=_none)
    """int32 [moved]: the old slot of each item whose slot changes."""
    entered: np.ndarray = field(default_factory=_none)
    """int32 [moved]: its new slot."""
    added: np.ndarray = field(default_factory=_none)
    """int32 [added]: the slots of new items."""
    share: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 [added]: (1 + the item's events), divided by the sum of the same
    quantity over the old items of its cluster, or over the new items if the cluster was
    empty."""
    similar: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """int32 [added, near]: old slots of items that it resembles; -1 fills rows."""
    filled: np.ndarray = field(default_factory=_none)
    """int32 [filled]: clusters that were empty before."""
    parent: np.ndarray = field(default_factory=_none)
    """int32 [filled]: for each of these, the cluster that a part was moved from, or
    -1."""
    retired: np.ndarray = field(default_factory=_none)
    """int32 [retired]: slots of items that are no longer valid."""
    revived: np.ndarray = field(default_factory=_none)
    """int32 [revived]: slots of retired items that are valid again."""

    def affected(self, cluster_size: int) -> Int32[np.ndarray, " affected"]:
        """Returns the clusters whose valid items change, ascending."""
        slots = (self.left, self.entered, self.added, self.retired, self.revived)
        return np.unique(cluster_of(np.concatenate(slots), cluster_size))

    def moves(self, num_slots: int) -> Int32[np.ndarray, " slot"]:
        """Returns the new slot of the item of each old slot."""
        new = np.arange(num_slots, dtype=np.int32)
        new[self.left] = self.entered
        return new

    def replay(
        self, valid: Bool[np.ndarray, "old_cluster place"]
    ) -> Bool[np.ndarray, "cluster place"]:
        """Returns the valid places after the change, given those before it."""
        cluster_size = valid.shape[1]
        after = np.zeros((self.num_clusters, cluster_size), np.bool_)
        after[: len(valid)] = valid
        flat = after.reshape(-1)
        flat[self.left] = False
        flat[self.entered] = valid.reshape(-1)[self.left]
        flat[self.added] = flat[self.revived] = True
        flat[self.retired] = False
        return after


_ARRAYS = tuple(f.name for f in fields(Change) if f.name != "num_clusters")


@dataclass(frozen=True, eq=False)
class Lineage:
    """All versions of a catalog; with it, checkpoints of any version can be
    migrated."""

    valid: Bool[np.ndarray, "cluster place"]
    """The valid places of version 1."""
    catalog_ids: Sequence[str] = ()
    """The catalog ids of versions 1, 2, …, without the present one."""
    changes: Sequence[Change] = ()
    """The changes that made versions 2, 3, …"""

    @property
    def version(self) -> int:
        """The present version; the first is 1."""
        return len(self.changes) + 1

    def followed(self, catalog_id: str, change: Change) -> "Lineage":
        """Returns the lineage of the next version.

        Args:
            catalog_id: the catalog id of the present version.
            change: makes the next version.
        """
        return replace(
            self,
            catalog_ids=(*self.catalog_ids, catalog_id),
            changes=(*self.changes, change),
        )

    def until(self, version: int) -> "Lineage":
        """Returns the lineage as it was in a version."""
        past = slice(version - 1)
        return replace(
            self, catalog_ids=self.catalog_ids[past], changes=self.changes[past]
        )

    def valid_at(self, version: int) -> Bool[np.ndarray, "cluster place"]:
        """Returns the valid places of a version."""
        valid = self.valid
        for change in self.changes[: version - 1]:
            valid = change.replay(valid)
        return valid

    def slots_at(self, version: int) -> Int32[np.ndarray, " slot"]:
        """Returns the slot that the item of each present slot had in a version.

        It is -1 for items that were added later, and arbitrary for empty places.
        """
        cluster_size, num_clusters = self.valid.shape[1], len(self.valid)
        if self.changes:
            num_clusters = self.changes[-1].num_clusters
        then = np.arange(num_clusters * cluster_size, dtype=np.int32)
        for change in reversed(self.changes[version - 1 :]):
            back = np.arange(len(then), dtype=np.int32)
            back[change.entered] = change.left
            back[change.added] = -1
            then = np.where(then >= 0, back[then], -1)
        return then

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays of a lineage file, by name."""
        ids = [np.frombuffer(bytes.fromhex(x), np.uint8) for x in self.catalog_ids]
        arrays = {
            "valid": self.valid,
            "catalog_ids": np.array(ids, np.uint8).reshape(-1, 32),
            "num_clusters": np.array([c.num_clusters for c in self.changes], np.int64),
        }
        for version, change in enumerate(self.changes, start=2):
            for name in _ARRAYS:
                array = np.ascontiguousarray(getattr(change, name))
                if array.size:
                    arrays[f"{version}/{name}"] = array
        return arrays


def lineage_of(path: Path, arrays: Mapping[str, np.ndarray]) -> Lineage:
    """Returns a lineage from its arrays; the inverse of `Lineage.to_arrays`.

    Args:
        path: the file, for messages.
        arrays: its content.

    Raises:
        UserError: an array is missing, or their numbers of versions differ.
    """
    for name in ("valid", "catalog_ids", "num_clusters"):
        require(name in arrays, f"{path} has no array {name!r}")
    changes = [
        _change(arrays, version, int(num_clusters))
        for version, num_clusters in enumerate(arrays["num_clusters"], start=2)
    ]
    ids = tuple(bytes(row).hex() for row in arrays["catalog_ids"])
    lineage = Lineage(arrays["valid"], ids, tuple(changes))
    require(
        len(ids) == len(changes),
        f"{path} has {len(ids)} catalog ids and {len(changes)} changes, wanted as many",
    )
    return lineage


def check_lineage(path: Path, lineage: Lineage, valid: np.ndarray) -> None:
    """Requires that a lineage leads to the valid places of the present version.

    Args:
        path: its file, for messages.
        lineage: the lineage of a catalog.
        valid: bool [cluster, place], the valid places of the catalog.
    """
    try:
        found = lineage.valid_at(lineage.version)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path} contradicts itself: {error}") from None
    require(
        found.shape == valid.shape and bool((found == valid).all()),
        f"{path} does not lead to the items that the catalog holds",
    )


def _change(
    arrays: Mapping[str, np.ndarray], version: int, num_clusters: int
) -> Change:
    named = {name: arrays.get(f"{version}/{name}") for name in _ARRAYS}
    given = {name: array for name, array in named.items() if array is not None}
    return Change(num_clusters, **given)
