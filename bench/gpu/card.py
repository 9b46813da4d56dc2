"""The card: its name, driver and memory, its peak by data sheet and as measured."""

import importlib.metadata
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp

from bench.machine import free_bytes
from sharding.compiled.machines import HARDWARE

_H200_FLOPS = 989.4e12
"""NVIDIA's data sheet: the chip of the H100 with more memory."""
_SIDES = {"gpu": 8192, "cpu": 256}
"""By backend, the side of the matrices of `measured_flops`."""


def environment() -> dict[str, Any]:
    """Returns what determines speed beside the code: card, driver, libraries."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
        "memory_bytes": stats.get("bytes_limit"),
        "driver": _nvidia_smi(),
        "libraries": _nvidia_libraries(),
        "data_sheet_flops": data_sheet_flops(),
    }


def data_sheet_flops() -> float | None:
    """Returns the card's peak of bfloat16 products by its data sheet, if known."""
    kind = jax.devices()[0].device_kind.lower()
    if "h200" in kind:
        return _H200_FLOPS
    known = {name[:4]: one.bf16_flops for name, one in HARDWARE.items()}
    del known["cpu"]
    return next((flops for name, flops in known.items() if name in kind), None)


def measured_flops() -> float:
    """Returns the FLOPs a second of one large bfloat16 product, the best of 10 runs."""
    side = _SIDES[jax.default_backend()]
    x = jnp.ones((side, side), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    product(x, x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def device_bytes() -> int:
    """Returns the memory that arrays may take: the card's, or on a CPU what is free."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return free_bytes() if limit is None else int(limit)


def peak_device_bytes() -> int | None:
    """Returns the most bytes of the card that this process has used; None on a CPU."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None if peak is None else int(peak)


def _nvidia_smi() -> str | None:
    """What the driver says of the first card, or None without its program."""
    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _nvidia_libraries() -> dict[str, str]:
    """Versions of CUDA's packages, cuDNN among them, where pip installed them."""
    found = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"] or ""
        if name.startswith(("nvidia-", "jax-cuda", "triton")):
            found[name] = package.version
    return dict(sorted(found.items()))
