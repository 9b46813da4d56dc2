"""How the processes of a run find one another."""

from dataclasses import dataclass

from eqids.config.flag_fields import grouped


@dataclass(frozen=True)
class ProcessesConfig:
    """Flags of a run in many processes, each with some of the devices.

    Under Slurm, MPI or an indexed job of Kubernetes none is needed. Processes that are
    started by hand each need the first three, or their environment variables.
    """

    coordinator: str | None = grouped("devices", None)
    """HOST:PORT where process 0 listens (or JAX_COORDINATOR_ADDRESS)."""
    num_processes: int | None = grouped("devices", None)
    """Number of processes (or JAX_NUM_PROCESSES); 1 disables distributed start-up."""
    process_id: int | None = grouped("devices", None)
    """Number of this process, from 0 (or JAX_PROCESS_ID)."""
    heartbeat: int = grouped("expert", 30)
    """Seconds of silence after which a process counts as dead and the others end."""
    join_timeout: int = grouped("expert", 120)
    """Seconds to wait for all processes at the start. After ten, the missing ones are
    named; after all of them, the run ends with exit code 2."""
