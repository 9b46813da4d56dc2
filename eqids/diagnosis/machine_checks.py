"""Checks what a machine offers: devices, memory, cores, disks, and the hub's token."""

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from huggingface_hub import constants, get_token, whoami

from eqids.cli.accelerators import nvidia_device
from eqids.config import UserError
from eqids.diagnosis.findings import Finding
from eqids.io.cache_folder import cache_folder
from sharding.compiled.machines import GIB

_LEAST_MEMORY = 2 * GIB
"""Memory below which the default run does not fit well."""
_LEAST_DISK = 2 * GIB
_CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


def check_devices() -> Iterator[Finding]:
    """Yields findings about JAX's devices, their memory, and cuDNN."""
    try:
        devices = jax.devices()
    except RuntimeError as error:
        said = " ".join(str(error).split())
        yield Finding("devices", "mend", said, "JAX_PLATFORMS=cpu uses the CPU alone")
        return
    kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if devices[0].platform == "cpu" and nvidia_device():
        remedy = "pip install 'eqids[gpu]'"
        if os.environ.get("JAX_PLATFORMS"):
            remedy = f"unset JAX_PLATFORMS, which is {os.environ['JAX_PLATFORMS']}"
        said = f"{kind}; this machine has an NVIDIA GPU, which JAX does not use"
        yield Finding("devices", "mend", said, remedy)
        return
    yield Finding("devices", "ok", kind)
    if devices[0].platform == "gpu":
        yield from _gpu(devices[0])


def _gpu(device: jax.Device) -> Iterator[Finding]:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        limit, used = stats["bytes_limit"] / GIB, stats["bytes_in_use"] / GIB
        said = f"{limit:.1f} GiB of each GPU for JAX, {used:.1f} in use"
        yield Finding("GPU memory", "ok", said)
    found = [f"{name} {one}" for name in _CUDNN if (one := _version(name))]
    if found or importlib.util.find_spec("torch") is None:
        verdict, said = "ok" if found else "note", ", ".join(found)
        said = said or "no package of it is installed; JAX takes the system's"
        yield Finding("cuDNN", verdict, said)  # type: ignore[arg-type]


def check_memory() -> Finding:
    """Returns a finding about the host's memory."""
    total, free = memory_bytes()
    said = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if free < _LEAST_MEMORY:
        remedy = "end other programs, or train with --batch_size 8 --seq_len 50"
        return Finding("memory", "note", said, remedy)
    return Finding("memory", "ok", said)


def memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """Returns the bytes of the host's memory, and those that programs may still use.

    Args:
        meminfo: Linux's description of its memory.
    """
    if not meminfo.exists():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    text = meminfo.read_text()
    numbers = {
        name: 1024 * int(kib) for name, kib in re.findall(r"(\w+): +(\d+) kB", text)
    }
    return numbers["MemTotal"], numbers["MemAvailable"]


def check_threads(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> Finding:
    """Returns a finding about the cores that this process may use.

    Args:
        quota: the file in which a container's limit is.
    """
    cores = len(os.sched_getaffinity(0))
    said = f"{cores} cores"
    limit = quota.read_text().split() if quota.exists() else ["max"]
    if limit[0] != "max":
        share = int(limit[0]) / int(limit[1])
        cores = min(cores, max(1, round(share)))
        said += f", of which a container's limit leaves {share:.1f}"
    load = os.getloadavg()[0]
    said += f"; a load of {load:.1f} now"
    if load > cores:
        return Finding(
            "threads", "note", f"{said}: other programs compete for the cores",
            "times are longer than on a quiet machine; do not compare them",
        )  # fmt: skip
    return Finding("threads", "ok", said)


def check_cache() -> Finding:
    """Returns a finding about the cache of downloads and compiled programs."""
    try:
        folder = cache_folder()
    except UserError as error:
        return Finding("cache", "mend", str(error), "export EQIDS_CACHE=FOLDER")
    return _writable("cache", folder, "export EQIDS_CACHE=FOLDER")


def check_here() -> Finding:
    """Returns a finding about the current folder, where runs and datasets go."""
    return _writable("folder", Path.cwd(), "change to a folder that you can write to")


def _writable(name: str, folder: Path, remedy: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        said = f"{folder} cannot be written to: {error.strerror}"
        return Finding(name, "mend", said, remedy)
    free = shutil.disk_usage(folder).free
    said = f"{folder} can be written to, {free / GIB:.1f} GiB free"
    if free < _LEAST_DISK:
        return Finding(name, "note", said, f"free space, or {remedy}")
    return Finding(name, "ok", said)


def check_hub(online: bool) -> Finding:
    """Returns a finding about the token of the Hugging Face hub.

    Args:
        online: whether to ask the hub.
    """
    login = "hf auth login, or export HF_TOKEN=TOKEN (only gated Llamas need it)"
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", "note", "offline, because HF_HUB_OFFLINE is set")
    if get_token() is None:
        return Finding("hub", "note", "no token is stored", login)
    if not online:
        said = "a token is stored; it was not sent to the hub"
        return Finding("hub", "ok", said, "python -m eqids.doctor --online asks it")
    try:
        return Finding("hub", "ok", f"the hub knows you as {whoami()['name']}")
    except Exception as error:  # the HTTP client's own errors differ by its version
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        said = f"the hub does not accept the token: {first}"
        return Finding("hub", "mend", said, login)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
