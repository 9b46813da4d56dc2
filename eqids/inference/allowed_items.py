"""Which items may be recommended, from lists of ids to allow and to deny."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from eqids.config import require
from eqids.data import Dataset
from eqids.data.ids import shown
from eqids.data.raw.id_files import read_id_file
from eqids.inference.id_lists import id_list


@dataclass(frozen=True)
class AllowedItems:
    """Items that may be recommended."""

    places: Bool[np.ndarray, "cluster place"]
    """Where they are in the catalog."""
    unknown: Mapping[str, int]
    """How many ids of "allow" and of "deny" the catalog does not hold."""


def allowed_items(
    dataset: Dataset, allow: Any, deny: Any, report: Callable[[str], None]
) -> AllowedItems:
    """Returns the items that may be recommended; see `Recommender.recommend`.

    Args:
        dataset: holds the catalog.
        allow: ids of the only items, or None for all.
        deny: ids of items to leave out, or None.
        report: receives a warning about ids in `allow` that the catalog does not hold.

    Raises:
        UserError: an argument is no list of ids, or `allow` leaves no item.
    """
    allowed = dataset.item_valid.copy()
    unknown: dict[str, int] = {}
    if allow is not None:
        ids = id_list("allow", allow)
        slots = dataset.find_items(ids)
        unknown["allow"] = int((slots < 0).sum())
        if unknown["allow"]:
            report(
                f"{unknown['allow']:,} of {len(slots):,} ids in allow are not in the "
                f"catalog of {dataset.path}, the first is "
                f"{shown(ids[int((slots < 0).argmax())])}"
            )
        allowed[:] = False
        allowed.flat[slots[slots >= 0]] = True
        allowed &= dataset.item_valid
        require(
            bool(allowed.any()),
            f"allow names no item that {dataset.path} can recommend, wanted at least "
            "one that its catalog holds and that is not retired",
        )
    if deny is not None:
        slots = dataset.find_items(id_list("deny", deny))
        unknown["deny"] = int((slots < 0).sum())
        allowed.flat[slots[slots >= 0]] = False
    return AllowedItems(allowed, unknown)


def allowed_by_files(
    dataset: Dataset,
    allow: Path | None,
    deny: Path | None,
    report: Callable[[str], None],
) -> AllowedItems:
    """Returns the items that may be recommended by files of ids; see `allowed_items`.

    Args:
        dataset: holds the catalog.
        allow: file with the ids of the only items, see `read_id_file`, or None.
        deny: file with the ids of items to leave out, or None.
        report: receives warnings.

    Raises:
        UserError: a file cannot be read, or `allow` leaves no item.
    """
    only, never = (
        None if file is None else read_id_file(file) for file in (allow, deny)
    )
    return allowed_items(dataset, only, never, report)
