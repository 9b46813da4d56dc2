"""Joins the processes of a run, by flags, environment variables or a launcher."""

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType

import jax

# jax has no public interface to its detection of launchers.
from jax._src.clusters import ClusterEnv

from sharding.connecting import connect
from sharding.processes import barrier
from sharding.rendezvous import ProcessesError, Rendezvous

_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "coordinator": "JAX_COORDINATOR_ADDRESS",
        "num_processes": "JAX_NUM_PROCESSES",
        "process_id": "JAX_PROCESS_ID",
    }
)
"""Environment variables for flags that are not given. jax reads only the first itself;
the others are named after it."""

_ADDRESS = re.compile(r"(?:\[[\w:.%]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")
"""HOST:PORT; an IPv6 address is in brackets."""

_JAX_JOINS_WITHIN_S = 60
"""The least number of seconds that jax gets to join connected processes."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat: int = 30,
    join_timeout: int = 120,
) -> None:
    """Joins the processes of a run; does nothing in a run of one process.

    Call it before anything that uses a device of jax. jax detects Slurm, Open MPI and
    indexed jobs of Kubernetes, and other MPIs through mpi4py. Processes started in
    another way need the first three arguments, or `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. If one process ends or hangs, all
    others end.

    Args:
        coordinator: HOST:PORT, where process 0 listens.
        num_processes: the number of processes; 1 disables the detection of launchers.
        process_id: the number of this process, from 0.
        heartbeat: seconds without a sign of life after which a process counts as dead.
        join_timeout: seconds to wait for the others to connect.

    Raises:
        ProcessesError: an argument is missing or out of range, or some processes did
            not connect; the message names them.
    """
    coordinator = coordinator or os.environ.get(_VARIABLES["coordinator"])
    num_processes = _number("num_processes", num_processes)
    process_id = _number("process_id", process_id)
    if num_processes == 1:
        return
    given = (coordinator, num_processes, process_id)
    launcher = _launcher() if None in given else None
    if launcher is None and given == (None, None, None):
        return
    _check(*given, heartbeat, join_timeout, launcher)
    # Otherwise jax treats SIGTERM as a notice of preemption and the process goes on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        _join(given, launcher, heartbeat, join_timeout)
    except ProcessesError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ProcessesError(
            f"the processes of this run ({launcher or coordinator}) did not find one "
            f"another: {str(error).splitlines()[0]}; see --coordinator, or "
            "--num_processes 1 to run alone"
        ) from error
    # The first barrier takes longest, so it comes before any work.
    barrier("all have joined")


def _join(
    given: tuple[str | None, int | None, int | None],
    launcher: str | None,
    heartbeat: int,
    join_timeout: int,
) -> None:
    """Connects the processes, and then joins them in jax."""
    # jax tries mpi4py only if it is named.
    method = "mpi4py" if launcher == "MPI" else None
    found = ClusterEnv.auto_detect_unset_distributed_params(
        *given, None, method, join_timeout
    )
    address, size, own, local_devices = found
    if address is None or size is None or own is None:
        raise ValueError("their number or their coordinator is not known")
    connect(Rendezvous(address, size, float(join_timeout)), own, _report)
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        local_devices = None  # jax reads the variable itself
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


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _ended_after(seconds: int, address: str) -> Iterator[None]:
    """Ends the process if jax does not join the others in time; jax would abort it.

    All have connected before, so the reason is that one has died since.
    """

    def end() -> None:
        _report(
            f"error: the processes of this run connected at {address}, but jax did not "
            f"join them within {seconds} s; the output of the others may say why"
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
    flags = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    _check_address(coordinator)
    if num_processes is not None and num_processes < 1:
        raise ProcessesError(f"--num_processes is {num_processes}, wanted 1 or more")
    missing = [name for name, value in flags.items() if value is None]
    if launcher == "MPI" and missing and find_spec("mpi4py") is None:
        raise ProcessesError(
            "MPI started several processes, and jax needs mpi4py to find them, which "
            "is not installed: pip install mpi4py, or give --coordinator, "
            "--num_processes and --process_id (--num_processes 1 to run alone)"
        )
    if launcher is None and missing:
        names = ", ".join(f"--{name} (or {_VARIABLES[name]})" for name in missing)
        given = ", ".join(f"--{name}" for name in flags if name not in missing)
        raise ProcessesError(f"{given} was given without {names}; wanted all three")
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
    """Raises ProcessesError if a coordinator is given that is not HOST:PORT."""
    found = _ADDRESS.fullmatch("localhost:1" if coordinator is None else coordinator)
    if found is None or not 0 < int(found[1]) < 2**16:
        raise ProcessesError(
            f"--coordinator is {coordinator!r}, wanted HOST:PORT, a name or an address "
            "and a port from 1 to 65535, such as node1:1234 or [::1]:1234"
        )


def _launcher() -> str | None:
    """Returns the launcher of a run of many processes, by its variables, or None."""
    env = os.environ
    # A shell inside a Slurm job has most variables; only srun sets those of a step.
    if {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= env.keys():
        return "Slurm" if env.get("SLURM_NTASKS", "1") != "1" else None
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        return "Kubernetes"
    ranks = env.get("OMPI_COMM_WORLD_SIZE", env.get("PMI_SIZE", "1"))
    if ranks == "1":
        return None
    return "Open MPI" if "OMPI_MCA_orte_hnp_uri" in env else "MPI"
