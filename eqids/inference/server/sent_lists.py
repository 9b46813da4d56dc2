"""Lists of ids in requests: a list that is sent again is not read again."""

import functools
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import msgspec
import numpy as np
from jaxtyping import Bool, Int32
from msgspec import UNSET

from eqids.inference.engine.values import SlotFilter
from eqids.inference.server.bodies import ItemId, RawIds
from eqids.inference.server.decode_bodies import decode
from eqids.inference.server.item_names import ItemNames

_SHORT = 1024
"""A list of fewer bytes is read again in less time than it takes to find."""
_MOST_KEPT, _KEPT_BYTES = 64, 2**26
"""Lists that are kept at most, and the memory of their masks."""


@dataclass(frozen=True, eq=False)
class SentList:
    """The items of a list.

    Attributes:
        slots: of those that the catalog holds.
        num_unknown: how many ids it does not hold.
        valid: places that may be recommended, `Dataset.item_valid`.
    """

    slots: Int32[np.ndarray, " n"]
    num_unknown: int
    valid: Bool[np.ndarray, "cluster place"]

    @functools.cached_property
    def allowed(self) -> SlotFilter:
        """Allows the items of the list alone."""
        return SlotFilter.of(self.slots, self.valid)

    @functools.cached_property
    def others(self) -> SlotFilter:
        """Allows all items but these."""
        return SlotFilter(self.valid & ~self.allowed.allowed)


class SentLists:
    """Reads the lists of one catalog, and keeps the last ones; threads may share it.

    Requests that send the same bytes get the same object, whose filter is on the device
    once.
    """

    def __init__(self, names: ItemNames, valid: Bool[np.ndarray, "cluster place"]):
        """Keeps nothing yet.

        Args:
            names: of the catalog.
            valid: places that may be recommended, `Dataset.item_valid`.
        """
        self._names, self._valid = names, valid
        # A mask on the host and one on the device, of what is allowed and of the rest.
        self._most = min(_MOST_KEPT, _KEPT_BYTES // (4 * valid.size))
        self._decoder = msgspec.json.Decoder(list[ItemId] | None)
        self._kept: OrderedDict[bytes, SentList] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, given: RawIds, field: str) -> SentList | None:
        """Returns a list; None if there is none.

        Args:
            given: its JSON.
            field: what messages call it.

        Raises:
            HttpError: 400, it is no list of ids.
        """
        if given is UNSET:
            return None
        data = bytes(given)
        if len(data) < _SHORT:
            return self._read(data, field)
        key = hashlib.sha256(data).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._read(data, field)
        if found is not None:
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return found

    def _read(self, data: bytes, field: str) -> SentList | None:
        ids = decode(data, self._decoder, field)
        if ids is None:
            return None
        slots = self._names.find(ids)
        known = slots >= 0
        return SentList(slots[known], int((~known).sum()), self._valid)
