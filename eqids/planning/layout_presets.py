"""The table of named layouts: model size, hardware, devices, and what trains.

Every preset was compiled for its hardware (docs/layouts.md). They follow these rules;
for other numbers of devices `python -m sharding plan` tries all meshes:

- A model that fits one device is replicated over all (`data`): devices then exchange
  nothing but gradients of what trains and sums over the catalog's shards.
- A model that does not fit is split within a host (`fsdp`), where links are fast, and
  replicated over hosts.
- `tensor` is for batches smaller than the number of devices.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax

from eqids.config import Strategy
from sharding import (
    Layout,
    LayoutError,
    Placement,
    abstract_mesh,
    mesh_shape_named,
    named_layout,
    placement,
)
from sharding.compiled.machines import hardware


@dataclass(frozen=True)
class LayoutPreset:
    """A named layout, and the batch that it was compiled for.

    Attributes:
        llama_size: of the model.
        train: what trains: `heads`, `lora` or `all`.
        hardware: a name of `HARDWARE`.
        num_hosts: hosts.
        devices_per_host: devices in each.
        mesh_shape: devices along `data`, `fsdp` and `tensor`.
        batch_size: rows in a batch, over all devices.
        seq_len: positions in a row.
        remat: whether blocks are recomputed in the backward pass.
        num_items: items in the catalog.
        spelled: the layout as a user typed it, if that is not the preset's name.
    """

    llama_size: str
    train: Strategy
    hardware: str
    num_hosts: int
    devices_per_host: int
    mesh_shape: tuple[int, int, int]
    batch_size: int
    seq_len: int = 64
    remat: bool = False
    num_items: int = 1_000_000
    spelled: str | None = None

    @property
    def name(self) -> str:
        """Its name: `8b-lora-h100-80gb-8`, `1b-all-a100-80gb-2x8`."""
        if self.spelled is not None:
            return self.spelled
        devices = devices_text(self.num_hosts, self.devices_per_host)
        name = f"{self.llama_size}-{self.train}-{self.hardware}-{devices}"
        return name if self.num_items <= 1_000_000 else f"{name}-10m"

    @property
    def num_devices(self) -> int:
        """Devices in the mesh."""
        return self.num_hosts * self.devices_per_host

    @property
    def capacity_bytes(self) -> int:
        """Bytes that a program may use of a device; CPUs share their host's memory."""
        share = self.devices_per_host if self.hardware == "cpu" else 1
        return hardware(self.hardware).capacity_bytes // share

    @property
    def layout(self) -> Layout:
        """Returns how arrays lie on its mesh."""
        return Layout(self.name, self.mesh_shape)


def devices_text(num_hosts: int, devices_per_host: int) -> str:
    """Returns devices as flags spell them: 8, or 2x8 for two hosts of eight."""
    return f"{num_hosts}x{devices_per_host}" if num_hosts > 1 else f"{devices_per_host}"


def _presets() -> tuple[LayoutPreset, ...]:
    one, whole, split, hosts = (1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 8, 1)
    a40, a80, h80 = "a100-40gb", "a100-80gb", "h100-80gb"
    return (
        LayoutPreset("nano", "all", "cpu", 1, 1, one, 64, 50, num_items=10_000),
        LayoutPreset("nano", "all", "cpu", 1, 8, whole, 64, 50, num_items=10_000),
        LayoutPreset("nano", "all", a40, 1, 1, one, 64, 50, num_items=10_000),
        LayoutPreset("smollm2-135m", "heads", "cpu", 1, 1, one, 8, num_items=100_000),
        LayoutPreset("smollm2-135m", "all", a40, 1, 1, one, 64),
        LayoutPreset("smollm2-135m", "all", h80, 1, 8, whole, 512),
        LayoutPreset("1b", "heads", a40, 1, 1, one, 16),
        LayoutPreset("1b", "heads", a80, 1, 1, one, 16),
        LayoutPreset("1b", "heads", h80, 1, 8, whole, 128),
        LayoutPreset("1b", "lora", a40, 1, 1, one, 16),
        LayoutPreset("1b", "lora", h80, 1, 8, whole, 128),
        LayoutPreset("1b", "all", a40, 1, 1, one, 8, remat=True),
        LayoutPreset("1b", "all", a80, 1, 1, one, 8),
        LayoutPreset("1b", "all", h80, 1, 1, one, 8),
        LayoutPreset("1b", "all", a80, 1, 8, split, 64),
        LayoutPreset("1b", "all", h80, 1, 8, split, 64),
        LayoutPreset("1b", "all", h80, 2, 8, hosts, 128),
        LayoutPreset("1b", "heads", a40, 1, 8, whole, 128, num_items=10_000_000),
        LayoutPreset("3b", "heads", a80, 1, 1, one, 8),
        LayoutPreset("3b", "lora", a40, 1, 1, one, 8),
        LayoutPreset("3b", "lora", h80, 1, 8, whole, 64),
        LayoutPreset("3b", "all", a80, 1, 1, one, 4, remat=True),
        LayoutPreset("3b", "all", a80, 1, 8, split, 64),
        LayoutPreset("3b", "all", h80, 1, 8, split, 64),
        LayoutPreset("3b", "all", h80, 2, 8, hosts, 128),
        LayoutPreset("8b", "heads", a40, 1, 1, one, 4),
        LayoutPreset("8b", "heads", h80, 1, 1, one, 4),
        LayoutPreset("8b", "heads", h80, 1, 8, whole, 64),
        LayoutPreset("8b", "lora", a40, 1, 1, one, 4, remat=True),
        LayoutPreset("8b", "lora", a40, 1, 8, split, 64),
        LayoutPreset("8b", "lora", h80, 1, 1, one, 8),
        LayoutPreset("8b", "lora", h80, 1, 8, whole, 64),
        LayoutPreset("8b", "all", a80, 1, 8, split, 32, remat=True),
        LayoutPreset("8b", "all", h80, 1, 8, split, 32, remat=True),
        LayoutPreset("8b", "all", a80, 2, 8, hosts, 64, remat=True),
        LayoutPreset("8b", "all", h80, 2, 8, hosts, 64, remat=True),
    )


LAYOUT_PRESETS: Mapping[str, LayoutPreset] = MappingProxyType(
    {preset.name: preset for preset in _presets()}
)
"""The presets by name."""


def layout_preset(name: str) -> LayoutPreset:
    """Returns a preset by its name.

    Raises:
        LayoutError: there is none; the message names those of the same size.
    """
    if name in LAYOUT_PRESETS:
        return LAYOUT_PRESETS[name]
    near = [n for n in LAYOUT_PRESETS if n.startswith(name.split("-")[0])]
    raise LayoutError(
        f"layout is {name!r}, wanted one of {', '.join(near or LAYOUT_PRESETS)} "
        "(python -m sharding list)"
    )


def estimated_placement(name: str) -> Placement:
    """Returns the placement of a layout to estimate, which needs none of its devices.

    Args:
        name: as for `placement_of`; `data`, `fsdp` and `tensor` are of the devices of
            this machine.

    Raises:
        LayoutError: no such layout.
    """
    shape = layout_preset(name).mesh_shape if "-" in name else mesh_shape_named(name)
    if shape is None:
        return placement(name)
    layout = named_layout("x".join(map(str, shape)), math.prod(shape))
    if math.prod(shape) == jax.device_count():
        return placement_of(name)
    return Placement(layout, abstract_mesh(layout))


def placement_of(name: str) -> Placement:
    """Returns the placement of a preset, or of any layout that `sharding` parses.

    Only the mesh of a preset is used: batch and strategy are those of the run.

    Args:
        name: of a preset, or as for `sharding.placement`.

    Raises:
        LayoutError: no such layout, or it cannot use this number of devices.
    """
    if "-" not in name:
        return placement(name)
    preset, num_devices = layout_preset(name), jax.device_count()
    if preset.num_devices != num_devices:
        raise LayoutError(
            f"layout {name!r} is for {preset.num_devices} devices, this run has "
            f"{num_devices}; python -m sharding estimate --layout {name} prints the "
            "memory that it needs"
        )
    return placement("x".join(map(str, preset.mesh_shape)))
