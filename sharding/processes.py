"""A run of several processes: they exchange texts, wait for each other, and end
together.

Every process runs the same program and owns some of the devices; a mesh spans the
devices of all. `initialize` of `sharding.joining` comes first.
"""

import os
import sys
import threading
from contextlib import suppress
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# jax has no public interface to its coordination service; Orbax uses this module too.
from jax._src import distributed
from jax.sharding import Mesh, PartitionSpec

_PEER_LOST = ("Gloo", "NCCL", "coordination service", "heartbeat")
"""Words in jax's errors that mean that another process has ended."""

_PATIENCE_MS = 7 * 24 * 3600 * 1000
"""How long to wait at a barrier: jax finds dead processes by their heartbeats."""

_DISCONNECT_WITHIN_S = 30
"""Seconds that a process waits at its end for others that are about to end too."""


def is_first() -> bool:
    """Returns whether this is process 0, which prints and writes for all.

    A process that has not joined a run is. Asking jax for its index would start its
    devices, after which no process can join.
    """
    return distributed.global_state.process_id == 0


def meet(mesh: Mesh) -> None:
    """Connects the processes along all axes of a mesh, before any of them computes.

    The first collective must reach all of them within seconds (gloo waits for 30). It
    would fail if one process were still compiling a program that another has cached.
    """
    if jax.process_count() == 1:
        return
    names = [name for name, size in mesh.shape.items() if size > 1]
    subsets = [s for n in range(len(names)) for s in combinations(names, n + 1)]

    def sums(x: jax.Array) -> jax.Array:
        return jnp.stack([jax.lax.psum(x, axes) for axes in subsets])

    together = jax.shard_map(
        sums, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
    )
    with jax.set_mesh(mesh):
        jax.block_until_ready(jax.jit(together)(np.ones((), np.int32)))


def barrier(point: str) -> None:
    """Returns once every process of the run has called it; see `exchange`."""
    exchange(point, "")


def exchange(point: str, text: str) -> dict[int, str]:
    """Gathers a text from every process, once all have called it.

    The texts travel through jax's coordination service and not over the devices, so
    any thread may call this while others compute.

    Args:
        point: a name for this call, the same in all processes and never used before.
        text: a few words, or none.

    Returns:
        The texts that are not empty, by process.
    """
    if jax.process_count() == 1:
        return {0: text} if text else {}
    client: Any = distributed.global_state.client
    if text:
        client.key_value_set(f"{point}/{jax.process_index()}", text)
    client.wait_at_barrier(point, _PATIENCE_MS)
    texts = dict(client.key_value_dir_get(f"{point}/"))
    return {int(key.rpartition("/")[2]): texts[key] for key in sorted(texts)}


def beside_others() -> bool:
    """Returns whether this process has joined a run of several processes."""
    return jax.distributed.is_initialized()


def lost_peer(error: BaseException) -> bool:
    """Returns whether an error means that another process of the run has ended."""
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) and beside_others()
    return of_jax and any(word in str(error) for word in _PEER_LOST)


def leave(code: int, *, together: bool = True) -> None:
    """Ends a process of a run of several; in a run of one process, returns.

    Python's ordinary exit would wait for the other processes, which may wait for this
    one inside a computation. After `leave` they notice that it has ended, and end as
    well.

    Args:
        code: the exit code.
        together: whether the others are about to end too, as after a signal. jax ends
            every process whose connection to process 0 breaks, so all of them
            disconnect together first, or after 30 seconds without the others.
    """
    if not beside_others():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if together:
        # In a thread, since it waits for minutes if another process is gone.
        disconnecting = threading.Thread(target=_disconnect, daemon=True)
        disconnecting.start()
        disconnecting.join(_DISCONNECT_WITHIN_S)
    os._exit(code)


def _disconnect() -> None:
    """Returns once all processes have called it and process 0 serves none of them.

    Process 0 must not end as soon as all have reported that they are done: jax would
    then end processes that have not yet ended by themselves, with another exit code.
    """
    with suppress(Exception):  # this process ends in any case
        jax.distributed.shutdown()
