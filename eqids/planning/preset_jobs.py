"""From flags to a layout preset, and from a preset to a job and its placement."""

import dataclasses
import math
from collections.abc import Sequence

import jax

from eqids.config import (
    LLAMA_PRESETS,
    LoraConfig,
    MachineConfig,
    ModelConfig,
    Strategy,
    preset_recipe,
    require,
)
from eqids.data.clustering.num_clusters import default_num_clusters
from eqids.fit.step_config import StepConfig, activations_of
from eqids.model.attention import cudnn_attends
from eqids.planning.abstract import Job
from eqids.planning.layout_presets import LAYOUT_PRESETS, LayoutPreset, layout_preset
from sharding import Placement, abstract_mesh, make_mesh, named_layout
from sharding.compiled.machines import hardware
from sharding.compiled.targets import gpu_devices

_SPARSE_FROM = 10_000
"""Items from which a batch is assumed to use fewer than half of the clusters."""


def preset_of(config: MachineConfig) -> LayoutPreset:
    """Returns the preset that the flags describe: one of the table, or a new one.

    Raises:
        LayoutError: there is no such layout, or not for this many devices.
    """
    name = config.layout
    named = name is not None and "-" in name
    preset = _named(config) if named else _described(config)
    names = ("batch_size", "seq_len", "num_items", "remat")
    given = {name: getattr(config, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if config.text_tokens_per_item and config.seq_len is None and not named:
        recipe = preset_recipe(config.llama_size, config.train, reads_text=True)
        given["seq_len"] = recipe.seq_len
    preset = dataclasses.replace(preset, **given)
    if name is None or named or LAYOUT_PRESETS.get(preset.name) == preset:
        return preset
    return dataclasses.replace(preset, spelled=name)


def _named(config: MachineConfig) -> LayoutPreset:
    """The preset that --layout names, which no other flag may contradict."""
    assert config.layout is not None
    preset, default = layout_preset(config.layout), MachineConfig()
    given = (config.llama_size, config.train, config.hardware, *config.hosts)
    silent = (default.llama_size, default.train, default.hardware, 1, 1)
    require(
        given in (silent, _key(preset)),
        f"--layout {config.layout} sets model size, hardware, devices and what trains, "
        "and other flags contradict it; wanted --layout alone, or a mesh such as 1x8x1",
    )
    return preset


def _described(config: MachineConfig) -> LayoutPreset:
    """The preset for a size, a strategy and devices, on the mesh of --layout."""
    hosts, devices = config.hosts
    key = (config.llama_size, config.train, config.hardware, hosts, devices)
    found = next((p for p in LAYOUT_PRESETS.values() if _key(p) == key), None)
    recipe = preset_recipe(config.llama_size, config.train)
    preset = found or LayoutPreset(
        *key, mesh_shape=(hosts * devices, 1, 1),
        batch_size=recipe.batch_size * hosts * devices, seq_len=recipe.seq_len,
    )  # fmt: skip
    if config.layout is None:
        return preset
    shape = named_layout(config.layout, hosts * devices).mesh_shape
    return dataclasses.replace(preset, mesh_shape=shape)


def _key(preset: LayoutPreset) -> tuple[str, str, str, int, int]:
    devices = preset.num_hosts, preset.devices_per_host
    return (preset.llama_size, preset.train, preset.hardware, *devices)


def preset_job(preset: LayoutPreset, item_width: int | None = None) -> Job:
    """Returns the job of a preset.

    Args:
        preset: sizes, batch, catalog.
        item_width: of an item's vector, by default the recipe's.
    """
    strategy: Strategy = preset.train
    llama = LLAMA_PRESETS[preset.llama_size]
    recipe = preset_recipe(preset.llama_size, strategy)
    recipe = dataclasses.replace(
        recipe, batch_size=preset.batch_size, seq_len=preset.seq_len
    )
    on_cpu = preset.hardware == "cpu"
    dtype = "float32" if on_cpu else "bfloat16"
    num_clusters = default_num_clusters(preset.num_items)
    model = ModelConfig(
        llama=llama,
        num_clusters=num_clusters,
        cluster_size=math.ceil(preset.num_items / num_clusters),
        item_width=item_width or recipe.item_width,
        adapter=recipe.adapter,
        dropout=recipe.dropout,
        lora=LoraConfig() if strategy == "lora" else None,
    )
    step = StepConfig(
        strategy=strategy,
        recipe=recipe,
        dtype=dtype,
        activations=activations_of(dtype, on_cpu),
        remat=preset.remat,
        kernel="cudnn" if cudnn_attends(llama, preset.seq_len, dtype) else "xla",
        item_optimizer="lazy_adam" if preset.num_items > _SPARSE_FROM else "dense",
    )
    return Job(model, step)


def abstract_placement(preset: LayoutPreset) -> Placement:
    """Returns a preset's layout on a mesh without devices."""
    return Placement(preset.layout, abstract_mesh(preset.layout))


def compile_placement(preset: LayoutPreset) -> Placement:
    """Returns a preset's layout on devices that XLA can compile for.

    Raises:
        LayoutError: XLA cannot compile for its hardware on this machine.
    """
    return Placement(preset.layout, make_mesh(preset.layout, _devices(preset)))


def _devices(preset: LayoutPreset) -> Sequence[jax.Device]:
    if preset.hardware != "cpu":
        machine = hardware(preset.hardware)
        return gpu_devices(machine, preset.num_hosts, preset.devices_per_host)
    num, num_there = preset.num_devices, len(jax.devices("cpu"))
    require(
        num_there >= num,
        f"layout {preset.name!r} needs {num} CPU devices, this process has {num_there};"
        f" wanted XLA_FLAGS=--xla_force_host_platform_device_count={num} in the "
        "environment",
    )
    return jax.devices("cpu")
