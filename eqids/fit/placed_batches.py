"""Training batches on devices, each with its active clusters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array, Int

from eqids.data.batches.training_batches import TrainingBatches
from eqids.fit.active_clusters import ClusterLists
from eqids.model import Batch
from sharding import Placement, beside


class PlacedBatch(NamedTuple):
    """A batch, and its active clusters if item tables have a row-sparse optimizer."""

    batch: Batch
    active: Int[Array, " active"] | None


@dataclass(frozen=True)
class PlacedBatches:
    """Puts training batches on devices.

    Attributes:
        batches: on the host.
        put: places batches on devices.
        table: the item table, or its shape and sharding; the lists are split like it.
        lists: lists the active clusters; None with a dense optimizer.
    """

    batches: TrainingBatches
    put: Placement
    table: jax.Array | jax.ShapeDtypeStruct
    lists: ClusterLists | None

    def iterate(self, start: int, stop: int) -> Iterator[PlacedBatch]:
        """Yields batches start to stop - 1; each process makes only its own rows."""
        size = self.batches.config.batch_size
        own, put = self.put.rows(size), partial(self.put.batch, num_rows=size)
        if self.lists is None:
            for host in self.batches.iterate(start, stop, own):
                yield PlacedBatch(Batch.of(host, put), None)
            return
        # The active clusters depend on the whole batch, so every process makes all
        # rows.
        for host in self.batches.iterate(start, stop):
            active = beside(self.lists.of_batch(host), self.table)
            assert isinstance(active, jax.Array)
            yield PlacedBatch(Batch.of(host.rows(own), put), active)
