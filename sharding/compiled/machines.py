"""Memory and peak speeds of the machines that programs are compiled for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sharding.layout import LayoutError

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """One device and its links; peaks are the vendor's, or None if unknown.

    Attributes:
        name: its name in `HARDWARE`.
        memory_bytes: what the driver reports as the device's memory.
        headroom_bytes: memory that a program must leave free (see `HARDWARE`).
        bf16_flops: dense bfloat16 products summed in float32, FLOPs a second.
        hbm_bytes_per_second: to and from the device's memory.
        link_bytes_per_second: what a device can send to others of its host.
        network_bytes_per_second: a device's share of what its host can send to others.
    """

    name: str
    memory_bytes: int
    headroom_bytes: int
    bf16_flops: float | None
    hbm_bytes_per_second: float | None
    link_bytes_per_second: float | None
    network_bytes_per_second: float | None

    @property
    def capacity_bytes(self) -> int:
        """The largest peak memory of a program."""
        return self.memory_bytes - self.headroom_bytes

    @property
    def client_memory_fraction(self) -> float:
        """The share of its memory that JAX is to take, three digits rounded down.

        JAX takes 75% of a GPU unless `XLA_CLIENT_MEM_FRACTION` says otherwise.
        """
        return int(1000 * self.capacity_bytes / self.memory_bytes) / 1000


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


HARDWARE: Mapping[str, Hardware] = MappingProxyType(
    {
        hardware.name: hardware
        for hardware in (
            Hardware("cpu", _machine_memory(), 2 * GIB, None, None, None, None),
            Hardware("a100-40gb", 42_331_013_120, 4 * GIB, 312e12, 1555e9, 300e9, 25e9),
            Hardware("a100-80gb", 85_100_068_864, 4 * GIB, 312e12, 2039e9, 300e9, 25e9),
            Hardware(
                "h100-80gb", 84_942_979_072, 4 * GIB, 989.4e12, 3352e9, 450e9, 50e9
            ),
        )
    }
)
"""Known hardware by name. `cpu` is this machine.

- Memory is what the driver reports, 39.4, 79.3 and 79.1 GiB, not the 40 and 80 GB of
  the name: `device_memory_size` of XLA's own target descriptions
  (openxla/xla, xla/backends/gpu/target_config/specs).
- FLOPs (dense, not the doubled figures for sparse products), memory bandwidth and
  NVLink (600 and 900 GB/s count both directions) are from NVIDIA's data sheets of the
  A100 and H100 in SXM boards.
- The network is that of DGX A100 and DGX H100 (NVIDIA's system guides): one 200 and one
  400 Gbit/s adapter a device.
- Headroom is a judgement, not a measurement: about 0.5 GiB for the CUDA context and
  loaded kernels, 1 to 2 GiB for NCCL's buffers (some for every mesh axis that
  communicates), the workspaces of cuBLAS and cuDNN, and memory that fragmentation
  wastes; so 4 GiB on a GPU, and 2 GiB for everything else on a CPU.
"""


def hardware(name: str) -> Hardware:
    """Returns hardware by name.

    Raises:
        LayoutError: no hardware has this name.
    """
    if name not in HARDWARE:
        raise LayoutError(f"hardware is {name!r}, wanted one of {', '.join(HARDWARE)}")
    return HARDWARE[name]
