"""Operations that need a sharding to be given under explicit sharding.

Shardings are part of an array's type, so these functions need no mesh as an argument:
they read the types of their arrays. Without a mesh they are the plain operations.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from sharding.layout import FSDP


def like(x: Array) -> NamedSharding | None:
    """Returns the sharding of `x`, to pass as `out_sharding`; None without a mesh."""
    sharding = jax.typeof(x).sharding
    return None if sharding.mesh.empty else sharding


def gathered(weight: Array) -> Array:
    """Returns a stored weight for computation: split over `tensor` at most."""
    sharding = like(weight)
    if sharding is None or FSDP not in jax.tree.leaves(tuple(sharding.spec)):
        return weight
    kept = [None if FSDP in _axes(entry) else entry for entry in sharding.spec]
    return jax.sharding.reshard(weight, PartitionSpec(*kept))


def replicated(x: Array) -> Array:
    """Returns `x` whole on every device, and so in every process."""
    if like(x) is None:
        return x
    return jax.sharding.reshard(x, PartitionSpec(*[None] * x.ndim))


def axes_of(x: Array, dim: int) -> tuple[str, ...]:
    """Returns the mesh axes over which an axis of `x` is split; () without a mesh."""
    sharding = like(x)
    entry = None if sharding is None else sharding.spec[dim]
    return _axes(entry)


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def lookup(table: Array, *index: Array) -> Array:
    """Returns `table[index]`, split as the index is.

    Args:
        table: its first `len(index)` axes are indexed.
        index: integer arrays of one shape.

    Returns:
        An array of the index's axes followed by the table's other axes.
    """
    sharding = like(index[0])
    if sharding is None:
        return table[index]
    rest = [None] * (table.ndim - len(index))
    spec = PartitionSpec(*sharding.spec, *rest)
    out = NamedSharding(sharding.mesh, spec)
    return table.at[index].get(out_sharding=out)


def per_shard(
    function: Callable[..., PyTree[Array]], replicated: PyTree, *split: Array
) -> Any:
    """Returns `function(replicated, *split)`, run by each shard on its own rows.

    Args:
        function: computes rows independently; sorts, scatters and loops inside it see
            one shard's rows only.
        replicated: arrays that every shard has whole (their gradients are summed).
        split: arrays with one leading axis, which the mesh splits in one way.

    Returns:
        What the function returns: an array with that leading axis, split in the same
        way, or a tree of such arrays.
    """
    sharding = like(split[0])
    if sharding is None:
        return function(replicated, *split)
    whole = jax.tree.map(
        lambda x: jax.sharding.reshard(x, PartitionSpec(*[None] * x.ndim)), replicated
    )
    rows = PartitionSpec(sharding.spec[0])
    return jax.shard_map(
        function,
        mesh=sharding.mesh,
        in_specs=(PartitionSpec(), *(rows for _ in split)),
        out_specs=rows,
    )(whole, *split)
