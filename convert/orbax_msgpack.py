"""Read the msgpack of old trees of Orbax and Flax: small leaves, or all of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.orbax_package import import_orbax
from eqids.config import UserError, require

_ELSEWHERE = "PLACEHOLDER://"
"""How the text begins that takes the place of an array which has files of its own."""


def aggregated(path: Path) -> Iterator[tuple[tuple[str, ...], np.ndarray | None]]:
    """Yields the leaves of a msgpack file.

    Args:
        path: the file `checkpoint` of a tree.

    Yields:
        The keys on the way to a leaf, and its values; None if they are in other files.

    Raises:
        UserError: see `import_orbax`; or the file is damaged, or holds a text.
    """
    reason = f"{path} is msgpack, which Orbax reads"
    msgpack = import_orbax("orbax.checkpoint.msgpack_utils", reason)
    try:
        tree = msgpack.msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack raises many types
        raise UserError(f"{path} is damaged: it is not whole msgpack") from error
    require(isinstance(tree, Mapping), f"{path} holds no tree, wanted one with names")
    yield from _leaves(path, tree, ())


def _leaves(
    path: Path, node: Any, keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], np.ndarray | None]]:
    if isinstance(node, Mapping | list | tuple):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, inner in items:
            yield from _leaves(path, inner, (*keys, str(key)))
    elif isinstance(node, str) and node.startswith(_ELSEWHERE):
        yield keys, None
    elif node is not None:
        require(
            not isinstance(node, str | bytes),
            f"{path}: leaf {'/'.join(keys)} is a text, wanted numbers",
        )
        yield keys, np.asarray(node)
