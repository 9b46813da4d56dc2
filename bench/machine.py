"""The machine of a measurement, and the memory of a process."""

import importlib.metadata
import mmap
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from eqids.config import require

_PACKAGES = (
    "jax", "jaxlib", "equinox", "optax", "numpy", "torch", "faiss-cpu", "tensorstore",
    "orbax-checkpoint", "transformers",
)  # fmt: skip


def pin(cores: int) -> None:
    """Pins this process and its children to the last `cores` of the cores it may use.

    Call it before jax, torch or numpy start their threads. It does nothing on systems
    that cannot pin (macOS); `describe` returns the cores in use.

    Raises:
        UserError: the process may use fewer cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    require(
        cores <= len(allowed),
        f"--cores is {cores}, but this process may use {len(allowed)}",
    )
    os.sched_setaffinity(0, allowed[-cores:])


def use_huge_pages() -> None:
    """Makes the processes that this one starts use huge pages (Linux, glibc >= 2.35).

    XLA allocates a program's results at every call. In pages of 4 KiB, the page faults
    of a large result take as long as its computation. A user's own setting stays.
    """
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def describe() -> dict[str, Any]:
    """Returns the CPU, the cores this process may use, memory, and settings."""
    allowed = hasattr(os, "sched_getaffinity") and sorted(os.sched_getaffinity(0))
    settings = ("XLA_", "JAX_", "OMP_", "MKL_", "GLIBC_")
    return {
        "cpu": _cpu(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "affinity": allowed or None,
        "memory_bytes": _kib("/proc/meminfo", "MemTotal"),
        "environment": {
            name: value for name, value in os.environ.items()
            if name.startswith(settings)
        },
    }  # fmt: skip


def _cpu() -> str:
    """The processor's name, with family and model: virtual machines hide names."""
    described = _read("/proc/cpuinfo")
    names = ("model name", "cpu family", "model")
    found = [re.search(rf"^{name}\s*: (.*)", described, re.MULTILINE) for name in names]
    name, family, model = (match[1] if match else None for match in found)
    if name is None:
        return platform.processor()
    return name if family is None else f"{name}, family {family}, model {model}"


def versions() -> dict[str, str]:
    """Returns the versions of Python, of EqIDs, of its libraries and of its peers."""
    found = {"python": platform.python_version()}
    for name in ("eqids", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Returns the git commit of this code, with + if files differ from it.

    None if the code is not in a git repository, or git is not installed.
    """
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def busy_cores(seconds: float = 0.5) -> float | None:
    """Returns how many cores others keep busy, measured for some seconds; on Linux."""
    before, after = _busy_ticks(), None
    if before is not None:
        time.sleep(seconds)
        after = _busy_ticks()
    if before is None or after is None:
        return None
    return (after - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks() -> int | None:
    """Returns the ticks that all cores worked since the system started."""
    found = re.match(r"cpu +(.*)", _read("/proc/stat"))
    if found is None:
        return None
    ticks = [int(word) for word in found[1].split()]
    return sum(ticks[:8]) - ticks[3] - ticks[4]


def free_bytes() -> int:
    """Returns the memory that a new process can use without swapping."""
    return _kib("/proc/meminfo", "MemAvailable") or 2**62


def take_pages(num_bytes: int) -> None:
    """Uses so much memory, and gives it back to the system.

    A virtual machine returns unused memory to its host after some seconds, and getting
    it back takes several times as long as clearing it. After this, who allocates next
    does not pay for that.
    """
    with mmap.mmap(-1, num_bytes) as memory:
        for start in range(0, num_bytes, mmap.PAGESIZE):
            memory[start] = 1


def reset_peak() -> None:
    """Resets the peak memory of this process, on Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int | None:
    """Returns this process's peak memory since `reset_peak` or its start."""
    return _kib("/proc/self/status", "VmHWM")


def anonymous_bytes() -> int | None:
    """Returns the memory that this process holds, without mapped files."""
    return _kib("/proc/self/status", "RssAnon")


def _git(where: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=where, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _kib(path: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB", _read(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
