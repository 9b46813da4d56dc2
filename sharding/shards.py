"""Computes rows with the blocks of a table that a mesh splits.

Some mesh axes split the rows (queries), others the leading axis of the table. On axes
that split both, each shard gathers the few, small rows of the others, computes all of
them with its own blocks, and returns sums. So blocks are never sent, and the size of
collectives grows with the rows and not with the table. Without a mesh every operation
here is the identity, so that one function serves both cases.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from sharding.ops import axes_of, like


@dataclass(frozen=True)
class TableShards:
    """The mesh axes that split rows, and those that split blocks; hashable.

    Attributes:
        rows: the mesh axes of the rows' leading axis.
        blocks: the mesh axes of the table's leading axis.
    """

    rows: tuple[str, ...]
    blocks: tuple[str, ...]

    @staticmethod
    def of(rows: Array, table: Array) -> "TableShards":
        """Reads the axes from the types of two arrays."""
        return TableShards(axes_of(rows, 0), axes_of(table, 0))

    @property
    def shared(self) -> tuple[str, ...]:
        """Mesh axes that split both: a shard's rows need the blocks of other shards
        too."""
        return tuple(axis for axis in self.rows if axis in self.blocks)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Mesh axes that split only the rows: `gather` does not gather over them."""
        return tuple(axis for axis in self.rows if axis not in self.blocks)

    def run(
        self,
        function: Callable[..., PyTree],
        example: Array,
        blocks: PyTree,
        rows: PyTree,
        out: PyTree,
        second: PyTree = None,
    ) -> PyTree:
        """Returns `function(blocks, rows, second)`, run by every shard on its part.

        Args:
            function: takes and returns trees of local arrays.
            example: any of the arrays; its type has the mesh.
            blocks: arrays with the leading axis of the table.
            rows: arrays with the leading axis of the rows.
            out: a tree (or a prefix of one) of "rows", "blocks" or "whole": how the
                result is split.
            second: arrays whose second axis is the leading axis of the table; the
                function does not receive it if it is None.
        """
        args = (blocks, rows) if second is None else (blocks, rows, second)
        sharding = like(example)
        if sharding is None:
            return function(*args)
        specs = {
            "rows": PartitionSpec(self.rows) if self.rows else PartitionSpec(),
            "blocks": PartitionSpec(self.blocks) if self.blocks else PartitionSpec(),
            "whole": PartitionSpec(),
        }
        split = specs["blocks"], specs["rows"], PartitionSpec(None, *specs["blocks"])
        return jax.shard_map(
            function,
            mesh=sharding.mesh,
            in_specs=split[: len(args)],
            out_specs=jax.tree.map(lambda name: specs[name], out),
        )(*args)

    def gather(self, rows: Array) -> Array:
        """Returns all rows that this shard computes with its blocks."""
        if not self.shared:
            return rows
        return jax.lax.all_gather(rows, self.shared, tiled=True)

    def every_row(self, rows: Array) -> Array:
        """Returns the rows of all shards, in their order."""
        return jax.lax.all_gather(rows, self.rows, tiled=True) if self.rows else rows

    def give_back(self, rows: Array) -> Array:
        """Sums gathered rows over the blocks' shards; each shard keeps its own rows."""
        if self.shared:
            rows = jax.lax.psum_scatter(rows, self.shared, tiled=True)
        rest = tuple(axis for axis in self.blocks if axis not in self.rows)
        return jax.lax.psum(rows, rest) if rest else rows

    def sum_over_blocks(self, x: Array) -> Array:
        """Sums over the shards of the table."""
        return jax.lax.psum(x, self.blocks) if self.blocks else x

    def max_over_blocks(self, x: Array) -> Array:
        """Takes the largest over the shards of the table."""
        return jax.lax.pmax(x, self.blocks) if self.blocks else x

    def sum_over_rows(self, x: Array) -> Array:
        """Sums over the shards whose rows `gather` does not gather."""
        return jax.lax.psum(x, self.elsewhere) if self.elsewhere else x

    def sum_over_all(self, x: Array) -> Array:
        """Sums over all shards."""
        return self.sum_over_rows(self.sum_over_blocks(x))

    def first_block(self, num_local: int) -> Int[Array, ""] | int:
        """Returns the number of this shard's first block."""
        return jax.lax.axis_index(self.blocks) * num_local if self.blocks else 0

    def own(self, block: Int[Array, "..."], num_local: int) -> Int[Array, "..."]:
        """Returns numbers of blocks, counted from this shard's first.

        Args:
            block: numbers in the whole table; a negative number is no block.
            num_local: the number of a shard's blocks, which is also the result for
                blocks of other shards.
        """
        own = block - self.first_block(num_local)
        return jnp.where((own >= 0) & (own < num_local), own, num_local)

    def varying(self, fresh: Array) -> Array:
        """Returns a constant with the type of a varying value, for carries of loops."""
        axes = self.blocks + self.elsewhere
        return jax.lax.pcast(fresh, axes, to="varying") if axes else fresh


def num_shards(table: jax.Array | jax.ShapeDtypeStruct) -> int:
    """Returns the number of parts of an array's leading axis on its mesh."""
    sharding = table.sharding
    if not isinstance(sharding, NamedSharding):
        return 1
    return table.shape[0] // sharding.shard_shape(table.shape)[0]
