"""Names the leaves of a tree, and compares them with the arrays of a checkpoint."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eqids.checkpoints.manifest import ArrayRecord, Manifest
from eqids.config import require
from sharding import LazyArray


class Stored(NamedTuple):
    """What a checkpoint stores of one leaf."""

    array: jax.Array | np.ndarray | LazyArray
    """The values; those past `shape` are padding for a mesh, and are not stored."""
    key: str | None
    """The random generator's name, if the array is the data of random keys."""
    shape: tuple[int, ...]
    """The shape that is stored."""


def stored_arrays(tree: PyTree, shapes: PyTree | None = None) -> dict[str, Stored]:
    """Returns what a checkpoint stores of a tree, by the names of its leaves.

    Args:
        tree: jax, NumPy or lazy arrays.
        shapes: a tree of the same structure, whose leaves have the stored shapes.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: two leaves have the same name ({"a/b": …, "a": {"b": …}}).
    """
    arrays: dict[str, Stored] = {}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    wanted = jax.tree.leaves(tree if shapes is None else shapes)
    for (route, leaf), like in zip(leaves, wanted, strict=True):
        name = leaf_name(route)
        if not isinstance(leaf, jax.Array | np.ndarray | LazyArray):
            raise TypeError(f"leaf {name!r} is {leaf!r}, wanted an array")
        if name in arrays:
            raise ValueError(f"two leaves are named {name!r}, wanted one")
        if isinstance(leaf, jax.Array) and _is_key(leaf):
            generator = str(jax.random.key_impl(leaf))
            data = jax.random.key_data(leaf)
            arrays[name] = Stored(data, generator, data.shape)
        else:
            require(
                leaf.dtype.isnative,
                f"leaf {name!r} is {leaf.dtype}, wanted the byte order of this machine",
            )
            arrays[name] = Stored(leaf, None, like.shape)
    return arrays


def _is_key(leaf: jax.Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def leaf_name(route: Any, prefix: str = "") -> str:
    """Returns the path of a leaf in a tree as text: params/llama/blocks/wq.

    Args:
        route: the path, as `jax.tree_util` gives it.
        prefix: put before it, with a slash.
    """
    name = jax.tree_util.keystr(route, simple=True, separator="/")
    return "/".join(part for part in (prefix, name) if part)


def match(
    label: str, manifest: Manifest, wanted: Mapping[str, Any], prefix: str
) -> None:
    """Requires that the arrays of a checkpoint are exactly the leaves of a tree.

    Args:
        label: names the checkpoint in messages.
        manifest: the manifest of the checkpoint.
        wanted: leaves with `shape` and `dtype`, by name.
        prefix: only arrays below this name are compared.

    Raises:
        UserError: an array is missing or surplus, or has another shape or dtype.
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
            f"{label}: array {name!r} is stored, wanted no array of this name",
        )


def _form(leaf: Any) -> str:
    """Returns dtype and shape as text: float32[3, 4], key<fry>[8]."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def _logical(record: ArrayRecord) -> jax.ShapeDtypeStruct:
    """Returns the form of an array in the tree: typed keys instead of their data."""
    stored = jax.ShapeDtypeStruct(record.shape, jnp.dtype(record.dtype))
    if record.key is None:
        return stored
    wrap = functools.partial(jax.random.wrap_key_data, impl=record.key)
    return jax.eval_shape(wrap, stored)
