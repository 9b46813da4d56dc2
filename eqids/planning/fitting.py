"""Whether a run fits the device that is there, and what would, before it loads."""

import dataclasses
from collections.abc import Iterator

import jax

from eqids.config import UserError
from eqids.planning.abstract import Job, abstract_run
from eqids.planning.memory import Memory, estimate
from sharding import (
    HARDWARE,
    LayoutError,
    Placement,
    abstract_mesh,
    mesh_shapes,
    named_layout,
)
from sharding.compiled.machines import GIB

_CERTAIN = 0.9
"""Share of an estimate that a run needs for certain (docs/layouts.md: none is more than
8% too high); what might fit is tried."""


def needed(job: Job, put: Placement) -> Memory:
    """Returns what one device needs for a job, without a device.

    Args:
        job: what is trained.
        put: its layout.
    """
    if put.layout is not None:
        put = Placement(put.layout, abstract_mesh(put.layout))
    with put.active():
        return estimate(job, abstract_run(job, put))


def room_there() -> int:
    """Returns the bytes that a run may use of one of this process's devices."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats is not None and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return HARDWARE["cpu"].capacity_bytes // jax.local_device_count()


def check_fits(job: Job, put: Placement, room: int) -> None:
    """Raises UserError where a job does not fit a device.

    Args:
        job: what is trained.
        put: its layout.
        cluster_size: bytes of a device that it may use.

    Raises:
        UserError: it does not; names what it needs, and the nearest setting that does.
    """
    peak = needed(job, put).peak
    if _CERTAIN * peak <= room:
        return
    fitting = next((said for said, p in _nearest(job, put) if p <= room), None)
    advice = "no batch and no layout of these devices would"
    if fitting is not None:
        advice = f"{fitting} would"
    raise UserError(
        f"the run needs about {peak / GIB:.2f} GiB of each device, which has "
        f"{room / GIB:.2f} GiB: it does not fit; {advice} (python -m sharding plan)"
    )


def _nearest(job: Job, put: Placement) -> Iterator[tuple[str, int]]:
    """Settings from the least change on, and their peaks."""
    yield from _tried(job, put, "")
    num_devices = 1 if put.mesh is None else put.mesh.size
    for data, fsdp, tensor in mesh_shapes(num_devices):
        if tensor == 1 and fsdp > 1:
            name = f"{data}x{fsdp}x{tensor}"
            layout = named_layout(name, num_devices)
            other = Placement(layout, abstract_mesh(layout))
            yield from _tried(job, other, f"--layout {name} ")


def _tried(job: Job, put: Placement, flags: str) -> Iterator[tuple[str, int]]:
    """Settings under one layout; what changes no gradient comes first."""
    size, parts = job.recipe.batch_size, job.accumulate
    settings = [("", size, parts, job.remat)] if flags else []
    if not job.remat:
        settings.append(("--remat", size, parts, True))
    while size % (parts := 2 * parts) == 0:
        settings.append((f"--remat --accumulate {parts}", size, parts, True))
    while size := size // 2:
        settings.append((f"--remat --batch_size {size}", size, 1, True))
    for said, size, parts, remat in settings:
        recipe = dataclasses.replace(job.recipe, batch_size=size)
        other = dataclasses.replace(job, recipe=recipe, remat=remat, accumulate=parts)
        try:
            less = needed(other, put)
        except LayoutError:
            continue
        yield (flags + said).strip(), less.peak
