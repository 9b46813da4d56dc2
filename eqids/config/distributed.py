"""How the processes of a run find one another."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessesConfig:
    """Flags of a run in many processes, each with some of the devices.

    Under Slurm, MPI or an indexed job of Kubernetes none is needed. Started by hand,
    every process gets the first three, or their environment variables.
    """

    coordinator: str | None = None
    """HOST:PORT where process 0 listens (or JAX_COORDINATOR_ADDRESS)."""
    num_processes: int | None = None
    """How many processes there are (or JAX_NUM_PROCESSES); 1 is alone, whatever
    started it."""
    process_id: int | None = None
    """Which of them this is, from 0 (or JAX_PROCESS_ID)."""
    heartbeat: int = 30
    """Seconds of silence after which a process counts as dead, and the others end."""
    join_timeout: int = 120
    """Seconds to wait for all processes at the start. After ten, those that have not
    come are named; after all of them, the run ends with exit code 2."""
