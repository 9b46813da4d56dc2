"""Checks lists of item ids that a Python program passes."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from eqids.config import require


def id_list(name: str, ids: Any) -> np.ndarray | list[Any]:
    """Returns a list of ids as an array or a list, for `Dataset.find_items`.

    Args:
        name: of the argument, for messages.
        ids: an array, a Series or any iterable of numbers, texts or dates.

    Raises:
        UserError: it is no list, or an element of it is one.
    """
    require_list(name, ids, "item ids")
    dimensions = getattr(ids, "ndim", 1)
    require(
        dimensions == 1 and not isinstance(ids, pd.MultiIndex | pa.Table),
        f"{name} is {_kind(ids)}, wanted a list of item ids",
    )
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        found = ids.to_pylist()
    elif hasattr(ids, "__array__"):
        found = np.asarray(ids)
    else:
        found = list(ids)
    if isinstance(found, list) or found.dtype.kind in "OV":
        for number, one in enumerate(found):
            require(
                isinstance(one, str | bytes) or not isinstance(one, Iterable | np.void),
                f"{name}[{number}] is {_kind(one)}, wanted one item id",
            )
    return found


def require_list(name: str, items: Any, of: str) -> None:
    """Raises UserError unless `items` is a list; a text is not taken as its letters."""
    is_list = isinstance(items, Iterable) and not isinstance(items, str | bytes)
    require(
        is_list and not isinstance(items, Mapping) and getattr(items, "ndim", 1) > 0,
        f"{name} is {_kind(items)}, wanted a list of {of}",
    )


def _kind(value: Any) -> str:
    """Returns what a message calls a value, on one line."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    plain = str | bytes | int | float | np.generic | np.ndarray | None
    return repr(value) if isinstance(value, plain) else f"a {type(value).__name__}"
