"""One run in many processes: joining them, waiting for them, and leaving them.

Every process runs the same program and owns some of the devices; a mesh spans the
devices of all. Who is who comes from the launcher where jax knows it, or is told.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import combinations
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# jax has no public way to its coordination service; Orbax takes this one too. Nor has
# it one to what it knows of launchers.
from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax.sharding import Mesh, PartitionSpec

from sharding.rendezvous import ProcessesError, Rendezvous

_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "coordinator": "JAX_COORDINATOR_ADDRESS",
        "num_processes": "JAX_NUM_PROCESSES",
        "process_id": "JAX_PROCESS_ID",
    }
)
"""What is told by the environment where it is not by flags: jax reads the first of
these itself, the others are named after it."""

_ADDRESS = re.compile(r"(?:\[[\w:.%]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")
"""HOST:PORT; brackets stand around the colons of IPv6."""

_PEER_LOST = ("Gloo", "NCCL", "coordination service", "heartbeat")
"""Words of errors of jax that mean that another process is not there any more."""

_PATIENCE_MS = 7 * 24 * 3600 * 1000
"""How long to wait for the others: who is dead is found by its heartbeat, not here."""

_JAX_JOINS_WITHIN_S = 60
"""Seconds that jax may take to join processes that have met, at least."""

_DISCONNECT_WITHIN_S = 30
"""Seconds that a process waits at its end for others that are about to end too."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat: int = 30,
    join_timeout: int = 120,
) -> None:
    """Joins the processes of a run; does nothing for one that is alone.

    It must come before anything that asks jax for a device. Slurm, Open MPI and
    indexed jobs of Kubernetes are detected by jax, other MPIs through mpi4py. For a
    bare start the first three arguments are needed, or `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. A process that ends or falls silent
    ends all others.

    Args:
        coordinator: HOST:PORT, where process 0 listens.
        num_processes: how many there are; 1 means alone, whatever was detected.
        process_id: which of them this is, from 0.
        heartbeat: seconds of silence after which a process counts as dead.
        join_timeout: seconds to wait for the others to come.

    Raises:
        ProcessesError: something is missing or out of range, or the processes did
            not find one another; it names those that did not come.
    """
    coordinator = coordinator or os.environ.get(_VARIABLES["coordinator"])
    num_processes = _number("num_processes", num_processes)
    process_id = _number("process_id", process_id)
    if num_processes == 1:
        return
    told = (coordinator, num_processes, process_id)
    launcher = _launcher() if None in told else None
    if launcher is None and told == (None, None, None):
        return
    _check(*told, heartbeat, join_timeout, launcher)
    # Or jax takes SIGTERM for a notice of preemption, and the process lives on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # jax tries mpi4py only where it is told to.
        method = "mpi4py" if launcher == "MPI" else None
        found = ClusterEnv.auto_detect_unset_distributed_params(
            *told, None, method, join_timeout
        )
        address, size, own, local_devices = found
        if address is None or size is None or own is None:
            raise ValueError("their number or their coordinator is not known")
        Rendezvous(address, size, float(join_timeout)).meet(own, _report)
        if "JAX_LOCAL_DEVICE_IDS" in os.environ:
            local_devices = None  # jax reads it by itself
        patience = max(join_timeout, _JAX_JOINS_WITHIN_S)
        with _ended_after(patience, address):
            jax.distributed.initialize(
                address,
                size,
                own,
                local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=2 * patience,
                heartbeat_timeout_seconds=heartbeat,
            )
    except ProcessesError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ProcessesError(
            f"the processes of this run ({launcher or coordinator}) did not find one "
            f"another: {str(error).splitlines()[0]}; see --coordinator, or "
            "--num_processes 1 to run alone"
        ) from error
    # They meet now, so that later one may let the others wait.
    barrier("all are here")


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _ended_after(seconds: int, address: str) -> Iterator[None]:
    """Ends the process where jax does not join the others in time, as it would abort.

    All have come already, so this is for one that died since.
    """

    def end() -> None:
        _report(
            f"error: the processes of this run met at {address}, and jax did not join "
            f"them within {seconds} s; the output of the others may say why"
        )
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _number(flag: str, given: int | None) -> int | None:
    text = os.environ.get(_VARIABLES[flag])
    if given is not None or text is None:
        return given
    if not (text.isascii() and text.isdecimal()):
        raise ProcessesError(f"{_VARIABLES[flag]} is {text!r}, wanted a number")
    return int(text)


def _check(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat: int,
    join_timeout: int,
    launcher: str | None,
) -> None:
    told = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    _check_address(coordinator)
    if num_processes is not None and num_processes < 1:
        raise ProcessesError(f"--num_processes is {num_processes}, wanted 1 or more")
    missing = [name for name, value in told.items() if value is None]
    if launcher == "MPI" and missing and find_spec("mpi4py") is None:
        raise ProcessesError(
            "MPI started this process beside others, which jax learns of by mpi4py, "
            "and that is not installed: pip install mpi4py, or give --coordinator, "
            "--num_processes and --process_id (--num_processes 1 to run alone)"
        )
    if launcher is None and missing:
        names = ", ".join(f"--{name} (or {_VARIABLES[name]})" for name in missing)
        given = ", ".join(f"--{name}" for name in told if name not in missing)
        raise ProcessesError(f"{given} came without {names}; wanted all three")
    most = sys.maxsize if num_processes is None else num_processes - 1
    if process_id is not None and not 0 <= process_id <= most:
        raise ProcessesError(
            f"--process_id is {process_id}, wanted 0 to {most}, which is "
            "--num_processes - 1"
        )
    if heartbeat < 1:
        raise ProcessesError(f"--heartbeat is {heartbeat}, wanted 1 second or more")
    if join_timeout < 1:
        raise ProcessesError(
            f"--join_timeout is {join_timeout}, wanted 1 second or more"
        )


def _check_address(coordinator: str | None) -> None:
    """Raises ProcessesError where a coordinator is told that is no HOST:PORT."""
    found = _ADDRESS.fullmatch("localhost:1" if coordinator is None else coordinator)
    if found is None or not 0 < int(found[1]) < 2**16:
        raise ProcessesError(
            f"--coordinator is {coordinator!r}, wanted HOST:PORT, a name or an address "
            "and a port from 1 to 65535, such as node1:1234 or [::1]:1234"
        )


def _launcher() -> str | None:
    """The launcher that started this process beside others, by its variables."""
    env = os.environ
    # A shell inside of a Slurm job has most variables; only srun sets the step's.
    if {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= env.keys():
        return "Slurm" if env.get("SLURM_NTASKS", "1") != "1" else None
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return "Kubernetes"
    ranks = env.get("OMPI_COMM_WORLD_SIZE", env.get("PMI_SIZE", "1"))
    if ranks == "1":
        return None
    return "Open MPI" if "OMPI_MCA_orte_hnp_uri" in env else "MPI"


def is_first() -> bool:
    """Whether this process speaks and writes for all of them."""
    return jax.process_index() == 0


def meet(mesh: Mesh) -> None:
    """Connects the processes along all axes of a mesh, before any of them computes.

    The first collective has to find everyone within seconds (gloo waits for 30), and
    it does not where one process still compiles what another had in its cache.
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
    """Returns once every process of the run has come to `point`; see `exchange`."""
    exchange(point, "")


def exchange(point: str, text: str) -> dict[int, str]:
    """Returns what all processes have to say at a point, once all have come there.

    It goes through the coordination service and not over the devices, so that any
    thread may call it while others compute.

    Args:
        point: its name, never used before in this run.
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
    told = dict(client.key_value_dir_get(f"{point}/"))
    return {int(key.rpartition("/")[2]): told[key] for key in sorted(told)}


def beside_others() -> bool:
    """Whether this process has joined a run of many."""
    return jax.distributed.is_initialized()


def lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) and beside_others()
    return of_jax and any(word in str(error) for word in _PEER_LOST)


def leave(code: int, *, together: bool = True) -> None:
    """Ends a process of a run of many; in a run of one process, returns.

    Python's ordinary exit would wait for the other processes, and they, inside a
    computation, for this one. They notice that it has ended, and end as well.

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

    Process 0 must not end as soon as all have said that they are done: one that has
    not yet ended by itself would be ended by jax, with another exit code.
    """
    with suppress(Exception):  # this process ends in any case
        jax.distributed.shutdown()
