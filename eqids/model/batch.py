"""The input of the model, as arrays on devices."""

from collections.abc import Callable
from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from sharding import per_shard


class Batch(eqx.Module):
    """The input of the model and its targets.

    Attributes:
        tokens: text tokens; 0 at positions of items.
        items: slots; -1 at positions of text.
        gap: bucket of the time between an item and the one before it; 0 is unknown.
        segment: a number for each packed history of a row; 0 is padding.
        position: within the segment.
        target: the slot to predict at this position; -1 is none.
        request_gap: bucket of the time between the last event at a position that
            predicts and the request for the next item; 0 is unknown.
    """

    tokens: Int[Array, "batch seq"]
    items: Int[Array, "batch seq"]
    gap: Int[Array, "batch seq"]
    segment: Int[Array, "batch seq"]
    position: Int[Array, "batch seq"]
    target: Int[Array, "batch seq"]
    request_gap: Int[Array, "batch seq"] | None = None

    @staticmethod
    def of(
        host: object, put: Callable[[np.ndarray], jax.Array] = jnp.asarray
    ) -> "Batch":
        """Returns a batch of the host (`eqids.data`'s `HostBatch`) on devices.

        Args:
            host: has NumPy arrays by the names of the fields.
            put: places an array, by default on the default device.
        """
        arrays = {field.name: getattr(host, field.name) for field in fields(Batch)}
        return Batch(**{n: put(a) for n, a in arrays.items() if a is not None})

    @staticmethod
    def zeros(num_rows: int, seq_len: int, request_time: bool = False) -> "Batch":
        """Returns a batch of zeros, for its shapes.

        Args:
            num_rows: number of rows.
            seq_len: positions in a row.
            request_time: whether it has a `request_gap`.
        """
        zeros = jnp.zeros((num_rows, seq_len), jnp.int32)
        batch = Batch(**{field.name: zeros for field in fields(Batch)})
        return batch if request_time else replace(batch, request_gap=None)


def at_position(
    x: Shaped[Array, "batch seq *axes"], position: Int[Array, " batch"]
) -> Shaped[Array, "batch 1 *axes"]:
    """Returns one position of each row."""

    def pick(_: tuple[()], x: Array, position: Array) -> Array:
        at = position.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.take_along_axis(x, at, axis=1)

    return per_shard(pick, (), x, position)
