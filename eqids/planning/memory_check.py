"""Whether a run fits its devices, checked before it loads any weights."""

import dataclasses
from collections.abc import Iterator

import jax

from eqids.config import UserError
from eqids.planning.abstract import Job, abstract_run
from eqids.planning.memory import Memory, estimate
from sharding import LayoutError, Placement, abstract_mesh, mesh_shapes, named_layout
from sharding.compiled.machines import GIB, HARDWARE

_CERTAIN = 0.9
"""Share of the estimate above which a run is refused. Estimates of programs that fill a
card are at most 8% too high (docs/layouts.md), so that whatever might fit is tried."""


def needed(job: Job, put: Placement) -> Memory:
    """Returns what a job needs of one device, by closed form and without a device.

    Args:
        job: what is trained.
        put: its layout.
    """
    if put.layout is not None:
        put = Placement(put.layout, abstract_mesh(put.layout))
    with put.active():
        return estimate(job, abstract_run(job, put))


def available_bytes() -> int:
    """Returns the bytes that a run may use of one of this process's devices."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats is not None and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return HARDWARE["cpu"].capacity_bytes // jax.local_device_count()


def check_fits(job: Job, put: Placement, capacity_bytes: int) -> None:
    """Raises UserError if a job does not fit a device.

    Args:
        job: what is trained.
        put: its layout.
        capacity_bytes: of a device, that the job may use.

    Raises:
        UserError: it does not fit; the message says what it needs, and names the
            nearest setting that fits.
    """
    peak = needed(job, put).peak
    if _CERTAIN * peak <= capacity_bytes:
        return
    fits = (flags for flags, peak in _nearest(job, put) if peak <= capacity_bytes)
    fitting = next(fits, None)
    advice = "no batch and no layout of these devices would"
    if fitting is not None:
        advice = f"{fitting} would"
    raise UserError(
        f"the run needs about {peak / GIB:.2f} GiB of each device, which has "
        f"{capacity_bytes / GIB:.2f} GiB: it does not fit; {advice} (python -m "
        "sharding plan)"
    )


def _nearest(job: Job, put: Placement) -> Iterator[tuple[str, int]]:
    """Flags from the smallest change on, and the peak of the job with them."""
    yield from _tried(job, put, "")
    num_devices = 1 if put.mesh is None else put.mesh.size
    for data, fsdp, tensor in mesh_shapes(num_devices):
        if tensor == 1 and fsdp > 1:
            name = f"{data}x{fsdp}x{tensor}"
            layout = named_layout(name, num_devices)
            other = Placement(layout, abstract_mesh(layout))
            yield from _tried(job, other, f"--layout {name} ")


def _tried(job: Job, put: Placement, prefix: str) -> Iterator[tuple[str, int]]:
    """Flags under one layout; those that change no gradient come first."""
    step = job.step
    size, parts = step.recipe.batch_size, step.accumulate
    settings = [("", size, parts, step.remat)] if prefix else []
    if not step.remat:
        settings.append(("--remat", size, parts, True))
    while size % (parts := 2 * parts) == 0:
        settings.append((f"--remat --accumulate {parts}", size, parts, True))
    while size := size // 2:
        settings.append((f"--remat --batch_size {size}", size, 1, True))
    for flags, size, parts, remat in settings:
        recipe = dataclasses.replace(step.recipe, batch_size=size)
        other = dataclasses.replace(step, recipe=recipe, remat=remat, accumulate=parts)
        try:
            less = needed(dataclasses.replace(job, step=other), put)
        except LayoutError:
            continue
        yield (prefix + flags).strip(), less.peak
