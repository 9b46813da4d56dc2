"""Arrays in a file that is made again if it is missing, stale or damaged."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eqids.config.errors import UserError
from eqids.io.atomic import new_file
from eqids.io.digests import array_bytes

_Arrays = Mapping[str, np.ndarray]


def read_arrays(path: Path, source: Mapping[str, str]) -> _Arrays | None:
    """Returns the arrays of a cache; None if it is missing, stale or damaged.

    Args:
        path: the cache.
        source: all that determines the arrays, by name, as when they were written.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            said = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    return arrays if said == _metadata(arrays, source) else None


def write_arrays(
    path: Path,
    arrays: _Arrays,
    source: Mapping[str, str],
    report: Callable[[str], None],
    cost: str,
) -> None:
    """Writes a cache, where the folder can be written to.

    Args:
        path: the cache.
        arrays: its content, by name.
        source: all that determines the arrays, by name.
        report: receives a warning if the cache cannot be written.
        cost: what follows if it cannot, for the warning.
    """
    try:
        with new_file(path) as partial:
            partial.write_bytes(save(dict(arrays), _metadata(arrays, source)))
    except UserError as error:
        # A read-only dataset can be used without a cache.
        report(f"warning: {error}; {cost}")


def _metadata(arrays: _Arrays, source: Mapping[str, str]) -> dict[str, str]:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array_bytes(array))
    return {**source, "sha256": digest.hexdigest()}
