"""What `python -m sharding plan` proposes if no layout of the devices fits."""

import dataclasses

from eqids.config import PlanConfig, Strategy
from eqids.planning.estimates import estimated, mesh_text
from eqids.planning.layout_presets import LayoutPreset, devices_text
from eqids.planning.memory import Memory
from sharding import LayoutError, mesh_shapes
from sharding.compiled.machines import GIB

_LESS: dict[Strategy, tuple[Strategy, ...]] = {
    "all": ("lora", "heads"),
    "lora": ("heads",),
    "heads": (),
}
"""Strategies that need less memory."""


def nothing_fits(config: PlanConfig, preset: LayoutPreset, memory: Memory) -> str:
    """Returns lines that say what is missing, and which flags would fit.

    Args:
        config: the flags.
        preset: the layout that needs least.
        memory: what it needs.
    """
    capacity = preset.capacity_bytes
    mesh = "" if config.layout is None else f" on the mesh {mesh_text(preset, 'x')}"
    lines = [
        f"nothing fits: {preset.llama_size} with {preset.train} trained needs at least "
        f"{memory.peak / GIB:.1f} GiB of each of {preset.num_devices} x "
        f"{preset.hardware}{mesh}, which have {capacity / GIB:.1f}; what would:"
    ]
    if config.layout is not None:
        lines += _other_meshes(config, preset)
    lines += _more_devices(preset)
    for train in _LESS[preset.train]:
        peak = estimated(dataclasses.replace(preset, train=train)).peak
        if peak <= capacity:
            lines.append(f"  --train {train} ({peak / GIB:.1f} GiB)")
    return "\n".join(lines)


def _more_devices(preset: LayoutPreset) -> list[str]:
    """The smallest number of devices that fits."""
    for devices in (2**n for n in range(1, 11)):
        if devices <= preset.num_devices:
            continue
        more = dataclasses.replace(
            preset, num_hosts=max(1, devices // 8), devices_per_host=min(devices, 8),
            mesh_shape=(1, devices, 1), batch_size=devices, remat=True,
        )  # fmt: skip
        try:
            peak = estimated(more).peak
        except LayoutError:
            continue
        if peak <= preset.capacity_bytes:
            text = devices_text(more.num_hosts, more.devices_per_host)
            return [
                f"  --devices {text} --batch_size {devices} --remat True "
                f"({peak / GIB:.1f} GiB)"
            ]
    return []


def _other_meshes(config: PlanConfig, preset: LayoutPreset) -> list[str]:
    """The mesh of as many devices that needs least for this batch, if it fits."""
    least: tuple[int, str] | None = None
    for shape in mesh_shapes(preset.num_devices):
        other = dataclasses.replace(preset, mesh_shape=shape)
        try:
            peak = estimated(other, config.item_width).peak
        except LayoutError:
            continue
        if least is None or peak < least[0]:
            least = peak, mesh_text(other, "x")
    if least is None or least[0] > preset.capacity_bytes:
        return []
    return [f"  --layout {least[1]} ({least[0] / GIB:.1f} GiB)"]
