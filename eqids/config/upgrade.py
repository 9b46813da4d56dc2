"""Reads what older checkpoints record: fields that were renamed or added since."""

from collections.abc import Callable, Mapping
from typing import Any

_Record = Mapping[str, Any]

_RENAMED = (
    ("config", "words", "tokens"),
    ("config.tokens", "words", "tokens"),
    ("model", "room", "cluster_size"),
)
"""An object's path in the record, the old name of a field, and its present name. A
field of `RunConfig` or `ModelConfig` that is renamed gets a row here."""

_ADDED = (
    ("config.flags", "request_time", False),
    ("config.flags", "skip", False),
    ("config.flags", "counts", False),
    ("model", "request_time", False),
    ("model", "skip", False),
    ("model", "num_successors", 0),
)
"""An object's path in the record, a field that older ones lack, and its value in them.
A field that a resumed run compares with the record gets a row here, and one whose
default changes what a recorded run does."""


def upgrade_meta(meta: _Record) -> _Record:
    """Returns a checkpoint's record with the present names of all fields.

    Args:
        meta: the `meta` of a manifest, or the content of a pair's eqids.json. It stays
            as it is.
    """
    for path, old, new in _RENAMED:
        meta = _changed(meta, path.split("."), _renaming(old, new))
    for path, name, value in _ADDED:
        meta = _changed(meta, path.split("."), _adding(name, value))
    return meta


def _changed(
    record: _Record, path: list[str], change: Callable[[_Record], _Record]
) -> _Record:
    """Returns the record with a change of the object at this path, if it has one."""
    if not path:
        return change(record)
    inner = record.get(path[0])
    if not isinstance(inner, Mapping):
        return record
    return {**record, path[0]: _changed(inner, path[1:], change)}


def _renaming(old: str, new: str) -> Callable[[_Record], _Record]:
    return lambda record: {new if n == old else n: v for n, v in record.items()}


def _adding(name: str, value: Any) -> Callable[[_Record], _Record]:
    return lambda record: {name: value, **record}
