"""The answers of `python -m sharding {list,show,estimate}`: layouts, arrays, memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax

from eqids.config import ListConfig, MachineConfig, ShowLayoutConfig
from eqids.planning.abstract import AbstractRun, abstract_run
from eqids.planning.layout_presets import LAYOUT_PRESETS, LayoutPreset, devices_text
from eqids.planning.memory import Memory
from eqids.planning.memory_check import needed
from eqids.planning.preset_jobs import abstract_placement, preset_job, preset_of
from sharding import Words, words
from sharding.compiled.machines import GIB


@dataclass(frozen=True)
class Answer:
    """Text to print, and the same as JSON values."""

    text: str
    values: Mapping[str, object]


def list_answer(config: ListConfig) -> Answer:
    """Returns the layout presets."""
    lines = [
        f"{'name':<30}{'mesh (data x fsdp x tensor)':<30}{'batch':>12}  remat  items"
    ]
    for preset in LAYOUT_PRESETS.values():
        batch = f"{preset.batch_size} x {preset.seq_len}"
        lines.append(
            f"{preset.name:<30}{mesh_text(preset):<30}{batch:>12}"
            f"  {'yes' if preset.remat else 'no':<5}  {preset.num_items:,}"
        )
    presets = [preset_json(preset) for preset in LAYOUT_PRESETS.values()]
    return Answer("\n".join(lines), {"layouts": presets})


def estimate_answer(config: MachineConfig) -> Answer:
    """Returns a layout's memory by closed form.

    Raises:
        UserError, LayoutError: there is no such layout, or it does not fit the model,
            the batch or the compiler.
    """
    preset = preset_of(config)
    memory = estimated(preset, config.item_width)
    capacity = preset.capacity_bytes
    text = memory_table(title(preset), memory, preset.hardware, capacity)
    values = {
        **preset_json(preset),
        **dataclasses.asdict(memory),
        "argument_bytes": memory.arguments,
        "temp_bytes": memory.temporaries,
        "peak_bytes": memory.peak,
        "capacity_bytes": capacity,
        "fits": memory.peak <= capacity,
    }
    return Answer(text, values)


def estimated(preset: LayoutPreset, item_width: int | None = None) -> Memory:
    """Returns a preset's memory by closed form; see `eqids.planning.memory`."""
    return needed(preset_job(preset, item_width), abstract_placement(preset))


@dataclass(frozen=True)
class _PlacedArray:
    """An array of a layout, as `show` prints it."""

    array: str
    words: str
    shape: list[int]
    dtype: str
    spec: list[list[str]]
    bytes: int


def show_answer(config: ShowLayoutConfig) -> Answer:
    """Returns where every array of a layout lies.

    Raises:
        UserError, LayoutError: see `estimate_answer`.
    """
    preset = preset_of(config)
    put, job = abstract_placement(preset), preset_job(preset, config.item_width)
    with put.active():
        arrays = list(_placed_arrays(abstract_run(job, put)))
    lines = [title(preset), ""]
    lines.append(f"{'array':<46}{'words':<36}{'shape':<24}{'split over':<34}MiB")
    for one in arrays:
        split = ", ".join(
            f"{word} {'+'.join(axes)}"
            for word, axes in zip(one.words.split(), one.spec, strict=True)
            if axes
        )
        shape = " x ".join(map(str, one.shape))
        lines.append(
            f"{one.array:<46}{one.words:<36}{shape:<24}{split or 'whole':<34}"
            f"{one.bytes / 2**20:,.1f}"
        )
    lines += ["", *_devices_table(preset)]
    values = {"arrays": [dataclasses.asdict(one) for one in arrays]}
    return Answer("\n".join(lines), {**preset_json(preset), **values})


def _placed_arrays(run: AbstractRun) -> Iterator[_PlacedArray]:
    """Weights, trained and frozen, and the batch."""
    trees = {"trained": run.state.params, "frozen": run.frozen, "batch": run.batch}
    for kind, tree in trees.items():
        declared: list[Words] = jax.tree.leaves(words(tree))
        for leaf, axes in zip(jax.tree.leaves(tree), declared, strict=True):
            shard = leaf.sharding.shard_shape(leaf.shape)
            yield _PlacedArray(
                array=f"{kind} {axes.field}",
                words=" ".join(axes.names),
                shape=list(leaf.shape),
                dtype=str(leaf.dtype),
                spec=[_mesh_axes(entry) for entry in leaf.sharding.spec],
                bytes=math.prod(shard) * leaf.dtype.itemsize,
            )


def _mesh_axes(entry: str | tuple[str, ...] | None) -> list[str]:
    if entry is None:
        return []
    return list(entry) if isinstance(entry, tuple) else [entry]


def _devices_table(preset: LayoutPreset) -> list[str]:
    """Which part each device holds, a line each."""
    data, fsdp, tensor = preset.mesh_shape
    lines = ["who holds what (parts counted from 1):"]
    for number in range(preset.num_devices):
        rows, t = divmod(number, tensor)
        host, device = divmod(number, preset.devices_per_host)
        lines.append(
            f"  host {host + 1} device {device + 1}:  "
            f"rows {rows + 1}/{data * fsdp}  weights {rows % fsdp + 1}/{fsdp}  "
            f"heads and ffn {t + 1}/{tensor}  "
            f"catalog {number + 1}/{preset.num_devices}"
        )
    return lines


def memory_table(title: str, memory: Memory, device: str, capacity_bytes: int) -> str:
    """Returns an estimate as lines to print, beside a device's capacity."""
    parts = {
        "frozen weights": memory.frozen,
        "weights that train, float32": memory.trained,
        "optimizer state": memory.optimizer,
        "batch": memory.batch,
        "arguments of a step (exact)": memory.arguments,
        "gradients": memory.gradients,
        "item tables' gradients and updates": memory.blocks,
        "activations of all blocks": memory.activations,
        "one block at work": memory.working,
        "a piece of the softmax": memory.head,
        "token embeddings, if gathered": memory.tokens,
        "sums over parts of a batch": memory.sums,
        "most of these at once (about)": memory.temporaries,
        "peak (about)": memory.peak,
        f"{device}, usable": capacity_bytes,
    }
    lines = [title, "a device's memory, GiB, by closed form:"]
    lines += [f"  {name:<36}{size / GIB:9.3f}" for name, size in parts.items()]
    fits = memory.peak <= capacity_bytes
    lines.append("  it fits" if fits else "  IT DOES NOT FIT")
    return "\n".join(lines)


def positions(preset: LayoutPreset) -> int:
    """Returns the positions in a batch."""
    return preset.batch_size * preset.seq_len


def mesh_text(preset: LayoutPreset, between: str = " x ") -> str:
    """Returns a preset's mesh as text: 1 x 8 x 1."""
    return between.join(map(str, preset.mesh_shape))


def title(preset: LayoutPreset) -> str:
    """Returns a preset in a line."""
    devices = devices_text(preset.num_hosts, preset.devices_per_host)
    return (
        f"{preset.llama_size}, {preset.train} trains, {devices} x {preset.hardware}, "
        f"mesh {mesh_text(preset)} (data x fsdp x tensor), batch {preset.batch_size} x "
        f"{preset.seq_len}, {preset.num_items:,} items"
        f"{', blocks recomputed' if preset.remat else ''}"
    )


def preset_json(preset: LayoutPreset) -> Mapping[str, object]:
    """Returns a preset as JSON values."""
    values = dataclasses.asdict(preset)
    del values["spelled"]
    return {"name": preset.name, **values}
