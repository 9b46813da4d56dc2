"""A served model with the names of its items and users."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eqids.cli.printing import one_line
from eqids.inference.engine.served_model import ServedModel
from eqids.inference.server.bodies import MapAnswer, ModelName, UserId
from eqids.inference.server.item_names import ItemNames, json_id
from eqids.inference.server.sent_lists import SentLists
from eqids.inference.server.shared_result import SharedResult


@dataclass(frozen=True, eq=False)
class ServedCatalog:
    """All that a request reads; it takes one of these, and stays with it."""

    served: ServedModel
    """The model."""
    names: ItemNames
    """The items of its catalog."""
    model: ModelName
    """What answers call it."""
    lists: SentLists
    """Reads the lists of requests."""
    directions: SharedResult[np.ndarray] = field(default_factory=SharedResult)
    """See `item_directions.py`."""
    map: SharedResult[MapAnswer] = field(default_factory=SharedResult)
    """The answer to `GET /v1/map`."""

    @staticmethod
    def of(served: ServedModel) -> "ServedCatalog":
        """Reads the names of a served model's catalog.

        Args:
            served: the model.
        """
        version = served.version
        name = ModelName(
            one_line(version.checkpoint),
            version.step,
            version.catalog_id,
            version.catalog_version,
        )
        # The first look-up would read the file.
        served.dataset.find_user("")
        names = ItemNames(served.dataset)
        lists = SentLists(names, served.dataset.item_valid)
        return ServedCatalog(served, names, name, lists)

    def find_user(self, user: UserId) -> tuple[int, str | int | None]:
        """Returns a user's row in the dataset, -1 for others, and the id of events;
        None if it cannot be an id of the dataset, such as a text among integers."""
        row, name = self.served.dataset.find_user(user)
        return row, None if name is None else event_id(name)


def event_id(value: Any) -> str | int:
    """Returns an id as stored events have it: an integer or text."""
    value = json_id(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(value)
    return value
