"""The least time of a program on a perfect machine: its roofline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharding.compiled.hlo import Collective, HloCounts
from sharding.compiled.machines import Hardware
from sharding.layout import LayoutError


@dataclass(frozen=True)
class Roofline:
    """Lower bounds for the time of one run, by resource.

    Attributes:
        compute_seconds: the least time of its matrix products.
        memory_seconds: the least time of its memory traffic.
        link_seconds: the least time of its collectives.
        bound: the resource with the largest time.
    """

    compute_seconds: float
    memory_seconds: float
    link_seconds: float
    bound: Literal["compute", "memory", "link"]

    @property
    def seconds(self) -> float:
        """The least time of a run in which everything overlaps perfectly."""
        return max(self.compute_seconds, self.memory_seconds, self.link_seconds)


def roofline(counts: HloCounts, hardware: Hardware, num_hosts: int = 1) -> Roofline:
    """Returns lower bounds for the time of a program.

    The machine is perfect: every product runs at the peak for bfloat16, memory and
    links at their full width, without latency, and all of it overlaps. These are bounds
    and not predictions; a good program takes about twice as long (Williams, Waterman
    and Patterson 2009, Roofline).

    Collectives are rings (see `Collective.sent_bytes`). If a group has g devices on
    each of several hosts, g rings run at once, and each device's share of the network
    carries 1/g of the bytes between hosts. In an all-to-all, each device sends to every
    device of other hosts through its own share.

    Args:
        counts: the counts of the program, for each device.
        hardware: the device.
        num_hosts: the number of hosts of the program's devices, which are spread evenly
            and in order.

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
    """The time of one collective in one group."""
    num_hosts = len({device // per_host for device in group})
    if num_hosts == 1:
        return each.sent_bytes / link
    together = len(group) / num_hosts
    if each.kind.endswith("all-to-all"):
        return each.bytes * (1 - together / len(group)) / network
    inside = each.sent_bytes / link if together > 1 else 0.0
    return max(inside, each.sent_bytes / (together * network))
