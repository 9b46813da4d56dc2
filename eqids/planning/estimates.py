"""What `python -m sharding {list,show,estimate}` answer: layouts, arrays, memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from eqids.config import (
    ListConfig,
    MachineConfig,
    ShowLayoutConfig,
)
from eqids.planning.abstract import abstract_run
from eqids.planning.fitting import needed
from eqids.planning.jobs import job_of, on_paper, row_of
from eqids.planning.memory import Memory
from eqids.planning.named_layouts import LAYOUT_PRESETS, LayoutPreset, devices_text
from sharding import words
from sharding.compiled.machines import GIB

Answer = tuple[str, Any]
"""Text to print, and the same as JSON values."""


def answer(config: ListConfig | MachineConfig) -> Answer:
    """Returns the answer to what was asked.

    Raises:
        UserError, LayoutError: there is no such layout, or it fits no model, batch or
            compiler.
    """
    if isinstance(config, ListConfig):
        return _list()
    row = row_of(config)
    if isinstance(config, ShowLayoutConfig):
        return _show(config, row)
    memory = estimated(row, config.item_width)
    text = memory_table(title(row), memory, row.hardware, row.capacity_bytes)
    return text, _memory_json(row, memory)


def estimated(row: LayoutPreset, item_width: int | None = None) -> Memory:
    """Returns a row's memory by closed form; see `eqids.planning.memory`."""
    return needed(job_of(row, item_width), on_paper(row))


def _list() -> Answer:
    lines = [
        f"{'name':<30}{'mesh (data x fsdp x tensor)':<30}{'batch':>12}  remat  items"
    ]
    for row in LAYOUT_PRESETS.values():
        lines.append(
            f"{row.name:<30}{_mesh(row):<30}{f'{row.batch_size} x {row.seq_len}':>12}"
            f"  {'yes' if row.remat else 'no':<5}  {row.num_items:,}"
        )
    return "\n".join(lines), {
        "layouts": [row_json(row) for row in LAYOUT_PRESETS.values()]
    }


def _show(config: ShowLayoutConfig, row: LayoutPreset) -> Answer:
    put, job = on_paper(row), job_of(row, config.item_width)
    with put.active():
        run = abstract_run(job, put)
    arrays = [
        {
            "array": name,
            "words": " ".join(axes.names),
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "spec": [list(_axes(entry)) for entry in leaf.sharding.spec],
            "bytes": math.prod(leaf.sharding.shard_shape(leaf.shape))
            * leaf.dtype.itemsize,
        }
        for name, leaf, axes in _arrays(run)
    ]
    lines = [title(row), ""]
    lines.append(f"{'array':<46}{'words':<36}{'shape':<24}{'split over':<34}MiB")
    for a in arrays:
        split = ", ".join(
            f"{word} {'+'.join(axes)}"
            for word, axes in zip(a["words"].split(), a["spec"], strict=True)
            if axes
        )
        shape = " x ".join(map(str, a["shape"]))
        lines.append(
            f"{a['array']:<46}{a['words']:<36}{shape:<24}{split or 'whole':<34}"
            f"{a['bytes'] / 2**20:,.1f}"
        )
    lines += ["", *_picture(row)]
    return "\n".join(lines), {**row_json(row), "arrays": arrays}


def _arrays(run: Any) -> Iterator[tuple[str, Any, Any]]:
    """Weights, trained and frozen, and the batch, with their words."""
    trees = {"trained": run.state.params, "frozen": run.frozen, "batch": run.batch}
    for kind, tree in trees.items():
        leaves = jax.tree.leaves(tree)
        for leaf, axes in zip(leaves, jax.tree.leaves(words(tree)), strict=True):
            yield f"{kind} {axes.field}", leaf, axes


def _axes(entry: Any) -> tuple[str, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def _picture(row: LayoutPreset) -> list[str]:
    """Who holds what: one line a device."""
    data, fsdp, tensor = row.mesh_shape
    lines = ["who holds what (parts counted from 1):"]
    number = 0
    for d in range(data):
        for f in range(fsdp):
            for t in range(tensor):
                host = number // row.devices_per_host + 1
                lines.append(
                    f"  host {host} device {number % row.devices_per_host + 1}:  "
                    f"rows {d * fsdp + f + 1}/{data * fsdp}  "
                    f"weights {f + 1}/{fsdp}  heads and ffn {t + 1}/{tensor}  "
                    f"catalog {number + 1}/{row.num_devices}"
                )
                number += 1
    return lines


def memory_table(title: str, memory: Memory, device: str, room: int) -> str:
    """Returns an estimate as lines to print, beside the room there is on a device."""
    parts = {
        "weights that are frozen": memory.frozen,
        "weights that train, float32": memory.trained,
        "optimizer state": memory.optimizer,
        "batch": memory.batch,
        "given to a step (exact)": memory.arguments,
        "gradients": memory.gradients,
        "item tables' gradients and updates": memory.blocks,
        "activations of all blocks": memory.activations,
        "one block at work": memory.working,
        "a piece of the softmax": memory.head,
        "words, where they are gathered": memory.tokens,
        "sums over parts of a batch": memory.sums,
        "most of these at once (about)": memory.temporaries,
        "peak (about)": memory.peak,
        f"{device}, less head-room": room,
    }
    lines = [title, "a device's memory, GiB, by closed form:"]
    lines += [f"  {name:<36}{size / GIB:9.3f}" for name, size in parts.items()]
    lines.append("  it fits" if memory.peak <= room else "  IT DOES NOT FIT")
    return "\n".join(lines)


def tokens(row: LayoutPreset) -> int:
    """Returns the positions in a batch."""
    return row.batch_size * row.seq_len


def _mesh(row: LayoutPreset) -> str:
    return " x ".join(map(str, row.mesh_shape))


def title(row: LayoutPreset) -> str:
    """Returns what a row is, in a line."""
    devices = devices_text(row.num_hosts, row.devices_per_host)
    return (
        f"{row.llama_size}, {row.train} trains, {devices} x {row.hardware}, mesh "
        f"{_mesh(row)} (data x fsdp x tensor), batch {row.batch_size} x {row.seq_len}, "
        f"{row.num_items:,} items{', blocks recomputed' if row.remat else ''}"
    )


def row_json(row: LayoutPreset) -> Mapping[str, Any]:
    """Returns a row as JSON values."""
    values = dataclasses.asdict(row)
    del values["spelled"]
    return {"name": row.name, **values}


def _memory_json(row: LayoutPreset, memory: Memory) -> Mapping[str, Any]:
    return {
        **row_json(row),
        **dataclasses.asdict(memory),
        "argument_bytes": memory.arguments,
        "temp_bytes": memory.temporaries,
        "peak_bytes": memory.peak,
        "capacity_bytes": row.capacity_bytes,
        "fits": memory.peak <= row.capacity_bytes,
    }
