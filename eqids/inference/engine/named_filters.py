"""Reads named filters: lists of the only items to recommend, such as "in stock"."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from eqids.config import UserError, require
from eqids.data import Dataset
from eqids.data.ids import shown
from eqids.inference.engine.values import SlotFilter
from eqids.inference.id_lists import id_list


def read_filters(
    path: Path, dataset: Dataset, report: Callable[[str], None]
) -> dict[str, SlotFilter]:
    """Returns the filters of a JSON file, {name: [item ids]}, by their names.

    Args:
        path: the file.
        dataset: holds the catalog.
        report: receives a warning for each list with ids that the catalog lacks.

    Raises:
        UserError: the file cannot be read, or is no such JSON.
    """
    filters = {}
    for name, ids in _lists(path).items():
        slots = dataset.find_items(id_list(f"{path}: filter {name!r}", ids))
        unknown = (slots < 0).nonzero()[0]
        if len(unknown):
            report(
                f"{path}: {len(unknown):,} of {len(ids):,} ids of filter {name!r} are "
                f"not in the catalog of {dataset.path}, the first is "
                f"{shown(ids[unknown[0]])}"
            )
        filters[name] = SlotFilter.of(slots, dataset.item_valid)
    return filters


def _lists(path: Path) -> Mapping[str, list[object]]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    require(
        isinstance(lists, dict) and all(isinstance(x, list) for x in lists.values()),
        f"{path} holds no named lists, wanted JSON such as "
        '{"in stock": ["id 1", "id 2"]}',
    )
    return lists
