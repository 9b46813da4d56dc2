"""The least time that a program can take: a perfect machine, busy with one thing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharding.compiled.hlo import Collective, Counts
from sharding.compiled.machines import Hardware
from sharding.layout import LayoutError


@dataclass(frozen=True)
class Roofline:
    """Lower bounds for one run of a program, by what it waits for.

    Attributes:
        compute_seconds: for its matrix products.
        memory_seconds: for the traffic of the device's memory.
        link_seconds: for its collectives.
        bound: which of these is the largest.
    """

    compute_seconds: float
    memory_seconds: float
    link_seconds: float
    bound: Literal["compute", "memory", "link"]

    @property
    def seconds(self) -> float:
        """The least time of all, where everything overlaps perfectly."""
        return max(self.compute_seconds, self.memory_seconds, self.link_seconds)


def roofline(counts: Counts, hardware: Hardware, num_hosts: int = 1) -> Roofline:
    """Returns how fast a program could be at best.

    The machine is perfect: every product runs at the peak for bfloat16, memory and
    links at their full width, nothing has latency, and different things overlap. So
    these are bounds, not predictions; real programs reach half of them where they do
    well (Williams, Waterman and Patterson 2009, Roofline).

    Collectives are rings (see `Collective.sent_bytes`). Where a group has g devices on
    each of several hosts, g rings run at once, so that each device's share of the
    network carries 1/g of what passes from host to host; an all-to-all has no such
    luck, each device sends to every one elsewhere through its own share.

    Args:
        counts: what the program does on each device.
        hardware: the device.
        num_hosts: over how many hosts the program's devices are spread, evenly and in
            order.

    Raises:
        LayoutError: the hardware has no known peaks, or the hosts do not divide the
            devices.
    """
    flops, hbm = hardware.bf16_flops, hardware.hbm_bytes_per_second
    link, network = hardware.link_bytes_per_second, hardware.network_bytes_per_second
    if flops is None or hbm is None or link is None or network is None:
        raise LayoutError(f"hardware {hardware.name!r} has no peaks for a roofline")
    if counts.num_devices % num_hosts:
        raise LayoutError(
            f"{counts.num_devices} devices cannot be spread over {num_hosts} hosts"
        )
    per_host = counts.num_devices // num_hosts
    times: dict[Literal["compute", "memory", "link"], float] = {
        "compute": counts.flops / flops,
        "memory": counts.memory_bytes / hbm,
        "link": math.fsum(
            each.times
            * max(
                _seconds(each, group, per_host, link, network) for group in each.groups
            )
            for each in counts.collectives
        ),
    }
    bound = max(times, key=lambda name: times[name])
    return Roofline(times["compute"], times["memory"], times["link"], bound)


def _seconds(
    each: Collective,
    group: Sequence[int],
    per_host: int,
    link: float,
    network: float,
) -> float:
    """Time that one group takes for one collective."""
    num_hosts = len({device // per_host for device in group})
    if num_hosts == 1:
        return each.sent_bytes / link
    together = len(group) / num_hosts
    if each.kind.endswith("all-to-all"):
        return each.bytes * (1 - together / len(group)) / network
    inside = each.sent_bytes / link if together > 1 else 0.0
    return max(inside, each.sent_bytes / (together * network))
