"""The leaves of a tree as named arrays, and how they compare with a checkpoint's."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from eqids.checkpoints.manifest import ArrayRecord, Manifest
from eqids.config import require


class Stored(NamedTuple):
    """What a checkpoint stores of one leaf."""

    array: jax.Array | np.ndarray
    """Its values, and past `shape` those that only make a mesh divide."""
    key: str | None
    """The generator's name, if it is the data of random keys."""
    shape: tuple[int, ...]
    """As it is stored."""


def stored_arrays(tree: PyTree, shapes: PyTree | None = None) -> dict[str, Stored]:
    """What a checkpoint stores of a tree, by name.

    Args:
        tree: arrays.
        shapes: a tree like it, whose leaves have the shapes that are stored.

    Raises:
        TypeError: a leaf is no array; names it.
        ValueError: two leaves have one name ({"a/b": …, "a": {"b": …}}).
    """
    arrays: dict[str, Stored] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    wanted = jax.tree.leaves(tree if shapes is None else shapes)
    for (route, leaf), like in zip(leaves, wanted, strict=True):
        name = leaf_name(route)
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(f"leaf {name!r} is {leaf!r}, wanted an array")
        if name in arrays:
            raise ValueError(f"two leaves are named {name!r}, wanted one")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            generator = str(jax.random.key_impl(leaf))
            data = jax.random.key_data(leaf)
            arrays[name] = Stored(data, generator, data.shape)
        else:
            require(leaf.dtype.isnative, f"leaf {name!r} is {leaf.dtype}, not native")
            arrays[name] = Stored(leaf, None, like.shape)
    return arrays


def leaf_name(route: Any, prefix: str = "") -> str:
    """A leaf's path in the tree as text, below `prefix`: params/llama/blocks/wq."""
    name = jax.tree_util.keystr(route, simple=True, separator="/")
    return "/".join(part for part in (prefix, name) if part)


def match(
    label: str, manifest: Manifest, wanted: Mapping[str, Any], prefix: str
) -> None:
    """Compares the arrays of a checkpoint with the leaves that are wanted.

    Args:
        label: names the checkpoint in messages.
        manifest: what is stored.
        wanted: leaves with `shape` and `dtype`, by name.
        prefix: stored arrays outside of it are of no interest.

    Raises:
        UserError: an array is missing, surplus, misshapen or of another dtype.
    """
    for name, leaf in wanted.items():
        stored = "absent"
        if name in manifest.arrays:
            stored = _form(_logical(manifest.arrays[name]))
        require(
            stored == _form(leaf),
            f"{label}: array {name!r} is {stored}, wanted {_form(leaf)}",
        )
    for name in manifest.arrays:
        inside = not prefix or name == prefix or name.startswith(f"{prefix}/")
        require(
            not inside or name in wanted,
            f"{label}: array {name!r} is stored, wanted no such array",
        )


def _form(leaf: Any) -> str:
    """Dtype and shape as text: float32[3, 4], key<fry>[8]."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _logical(record: ArrayRecord) -> jax.ShapeDtypeStruct:
    """The array as the tree has it: typed keys where their data is stored."""
    stored = jax.ShapeDtypeStruct(record.shape, jax.numpy.dtype(record.dtype))
    if record.key is None:
        return stored
    wrap = functools.partial(jax.random.wrap_key_data, impl=record.key)
    return jax.eval_shape(wrap, stored)
