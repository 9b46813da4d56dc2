"""Compiles a program for a machine, and reads what it needs, without running it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from sharding.compiled.hlo import count
from sharding.compiled.hlo_text import HloShape
from sharding.compiled.machines import Hardware
from sharding.compiled.roofline import Roofline, roofline
from sharding.compiled.targets import no_cache


@dataclass(frozen=True)
class Proof:
    """The costs of a compiled program, for each device.

    Attributes:
        argument_bytes: the size of the program's arguments.
        temp_bytes: the size of its temporary arrays.
        peak_bytes: most memory in use at a time.
        capacity_bytes: the device's memory without its headroom.
        flops: the FLOPs of matrix products, in one run.
        collective_bytes: bytes that are exchanged in one run, by kind of collective.
        gathers: types of all results of all-gathers.
        roofline: the least time of one run; None for hardware without known peaks.
        unknown_loops: loops whose bodies count once, because their trip count depends
            on data.
        compile_seconds: the time to compile on this machine.
    """

    argument_bytes: int
    temp_bytes: int
    peak_bytes: int
    capacity_bytes: int
    flops: int
    collective_bytes: Mapping[str, int]
    gathers: tuple[HloShape, ...]
    roofline: Roofline | None
    unknown_loops: tuple[str, ...]
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether the peak is within the capacity."""
        return self.peak_bytes <= self.capacity_bytes

    def to_json(self) -> dict[str, Any]:
        """Returns the proof as JSON values."""
        least = self.roofline
        return {
            "argument_bytes": self.argument_bytes,
            "temp_bytes": self.temp_bytes,
            "peak_bytes": self.peak_bytes,
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
            "flops": self.flops,
            "collective_bytes": dict(self.collective_bytes),
            "roofline_seconds": None
            if least is None
            else {
                "compute": least.compute_seconds,
                "memory": least.memory_seconds,
                "link": least.link_seconds,
            },
            "bound": least and least.bound,
            "unknown_loops": list(self.unknown_loops),
            "compile_seconds": round(self.compile_seconds, 1),
        }


def prove(
    function: jax.stages.Wrapped,
    args: tuple[object, ...],
    hardware: Hardware,
    num_hosts: int = 1,
) -> Proof:
    """Compiles a program from shapes alone, and reads its memory, FLOPs and bytes.

    Args:
        function: a jitted function.
        args: `jax.ShapeDtypeStruct`s with shardings on a mesh of the target's devices.
        hardware: the hardware of the mesh's devices.
        num_hosts: the number of hosts of the mesh's devices.
    """
    start = time.perf_counter()
    lowered = function.lower(*args)
    # jax cannot load a program for absent devices from its cache.
    with no_cache():
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None, "the compiler reports nothing"
    counts = count(text)
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    # On a CPU, XLA's peak does not include temporaries.
    on_cpu = hardware.bf16_flops is None
    return Proof(
        argument_bytes=arguments,
        temp_bytes=temporaries,
        peak_bytes=arguments + temporaries if on_cpu else memory.peak_memory_in_bytes,
        capacity_bytes=hardware.capacity_bytes,
        flops=counts.flops,
        collective_bytes=counts.collective_bytes,
        gathers=counts.gathers,
        roofline=None if on_cpu else roofline(counts, hardware, num_hosts),
        unknown_loops=counts.unknown_loops,
        compile_seconds=seconds,
    )
