"""Reads what older checkpoints record: fields that were renamed since."""

from collections.abc import Mapping
from typing import Any

_RENAMED = (
    ("config", "words", "tokens"),
    ("config.tokens", "words", "tokens"),
    ("model", "room", "cluster_size"),
)
"""An object's path in the record, the old name of a field, and its present name. A
field of `RunConfig` or `ModelConfig` that is renamed gets a row here."""


def upgrade_meta(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a checkpoint's record with the present names of all fields.

    Args:
        meta: the `meta` of a manifest, or the content of a pair's eqids.json. It stays
            as it is.
    """
    for path, old, new in _RENAMED:
        meta = _renamed(meta, path.split("."), old, new)
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
