"""Reads what older checkpoints record: fields that were renamed or added since."""

from collections.abc import Mapping
from typing import Any

_RENAMED = (
    ("config", "words", "tokens"),
    ("config.tokens", "words", "tokens"),
    ("model", "room", "cluster_size"),
)
"""An object's path in the record, the old name of a field, and its present name. A
field of `RunConfig` or `ModelConfig` that is renamed gets a row here."""


_ADDED: tuple[tuple[str, str, Any], ...] = (
    ("config.flags", "counts", False),
    ("model", "num_successors", 0),
)
"""An object's path in the record, a field that it lacks if it is older, and the value
that the field then has. A field gets a row here if its default changes what a recorded
run does."""


def upgrade_meta(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a checkpoint's record with the present names and number of fields.

    Args:
        meta: the `meta` of a manifest, or the content of a pair's eqids.json. It stays
            as it is.
    """
    for path, old, new in _RENAMED:
        meta = _renamed(meta, path.split("."), old, new)
    for path, name, value in _ADDED:
        meta = _added(meta, path.split("."), name, value)
    return meta


def _renamed(
    record: Mapping[str, Any], path: list[str], old: str, new: str
) -> Mapping[str, Any]:
    if not path:
        return {new if name == old else name: value for name, value in record.items()}
    inner = record.get(path[0])
    if not isinstance(inner, Mapping):
        return record
    return {**record, path[0]: _renamed(inner, path[1:], old, new)}


def _added(
    record: Mapping[str, Any], path: list[str], name: str, value: Any
) -> Mapping[str, Any]:
    if not path:
        return {**record, name: record.get(name, value)}
    inner = record.get(path[0])
    if not isinstance(inner, Mapping):
        return record
    return {**record, path[0]: _added(inner, path[1:], name, value)}
