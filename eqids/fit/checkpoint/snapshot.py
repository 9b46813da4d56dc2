"""A copy of shards in host memory, which nothing that trains can change."""

import dataclasses

import jax
import numpy as np

from eqids.fit.checkpoint.store import Shard


class Staging:
    """Host memory for the copies of one save at a time."""

    def copy(self, shards: list[Shard]) -> list[Shard]:
        """Returns the shards with values of their own, in host memory.

        The copies before them are no longer needed.
        """
        for shard in shards:
            if isinstance(shard.values, jax.Array):
                shard.values.copy_to_host_async()
        return [
            dataclasses.replace(shard, values=np.array(shard.values, order="C"))
            for shard in shards
        ]
