"""The versions of a catalog: what each changed, from the first on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from eqids.config import UserError, require


def _none() -> np.ndarray:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Change:
    """What leads from one version of a catalog to the next.

    Items that move do so first, out of the slots `left`; `added` ones may take those.
    """

    num_clusters: int
    """Clusters afterwards; never fewer than before."""
    left: np.ndarray = field(default_factory=_none)
    """int32 [moved]: the old slot of each item that moves."""
    entered: np.ndarray = field(default_factory=_none)
    """int32 [moved]: its new slot."""
    added: np.ndarray = field(default_factory=_none)
    """int32 [added]: the slots of new items."""
    share: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 [added]: the item's use, one added, divided by that of the items that
    its cluster had, or where it had none by that of the new ones."""
    similar: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """int32 [added, near]: old slots of items that it resembles; -1 fills rows."""
    opened: np.ndarray = field(default_factory=_none)
    """int32 [opened]: clusters without items that get some."""
    parent: np.ndarray = field(default_factory=_none)
    """int32 [opened]: the cluster that each of them divides, or -1."""
    retired: np.ndarray = field(default_factory=_none)
    """int32 [retired]: slots of items that are no longer valid."""
    revived: np.ndarray = field(default_factory=_none)
    """int32 [revived]: slots of retired items that are valid again."""

    def affected(self, cluster_size: int) -> np.ndarray:
        """The clusters whose valid items are others than before, ascending."""
        places = (self.left, self.entered, self.added, self.retired, self.revived)
        return np.unique(np.concatenate(places) // cluster_size)

    def moves(self, num_slots: int) -> np.ndarray:
        """int32 [slot]: where the item of each old slot stands now."""
        new = np.arange(num_slots, dtype=np.int32)
        new[self.left] = self.entered
        return new

    def replay(self, valid: np.ndarray) -> np.ndarray:
        """The valid places, bool [cluster, place], after the change."""
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
    """How a catalog came to be what it is; checkpoints of any version follow it."""

    valid: np.ndarray
    """bool [cluster, place]: the valid places of version 1."""
    catalog_ids: Sequence[str] = ()
    """The catalog ids of versions 1, 2, …, without the present one."""
    changes: Sequence[Change] = ()
    """What led to versions 2, 3, …"""

    @property
    def version(self) -> int:
        """The present version; the first is 1."""
        return len(self.changes) + 1

    def followed(self, catalog_id: str, change: Change) -> "Lineage":
        """The lineage of the next version.

        Args:
            catalog_id: of the present version.
            change: what leads to the next.
        """
        return replace(
            self,
            catalog_ids=(*self.catalog_ids, catalog_id),
            changes=(*self.changes, change),
        )

    def valid_at(self, version: int) -> np.ndarray:
        """The valid places, bool [cluster, place], of a version."""
        valid = self.valid
        for change in self.changes[: version - 1]:
            valid = change.replay(valid)
        return valid

    def slots_at(self, version: int) -> np.ndarray:
        """int32 [slot]: where the item of each present slot stood in a version.

        It is -1 for items that came later; slots that hold no item mean nothing.
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
        """What a file of the lineage holds, by name."""
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
    """The inverse of `Lineage.to_arrays`.

    Args:
        path: the file, for messages.
        arrays: its content.

    Raises:
        UserError: if an array is missing or a change names slots that are not there.
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
        lineage: of a catalog.
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
