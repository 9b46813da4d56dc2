"""What `python -m sharding` answers: tables of layouts, arrays, memory and proofs."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from eqids.config import (
    EstimateConfig,
    ListConfig,
    MachineConfig,
    ProveConfig,
    ShowLayoutConfig,
    UserError,
    require,
)
from eqids.config.hardware import HardwareName
from eqids.fit.abstract import Job, abstract_run
from eqids.fit.fitting import needed, room_there
from eqids.fit.memory import Memory
from eqids.fit.planning import job_of, on_paper, on_target, row_of
from eqids.fit.runs import write_json
from sharding import (
    ROWS,
    LayoutError,
    Placement,
    Proof,
    Row,
    devices_text,
    gpu_devices,
    hardware,
    make_mesh,
    named_layout,
    prove,
    words,
)

GIB = 2**30

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
    if isinstance(config, EstimateConfig):
        memory = estimated(row, config.item_width)
        room = hardware(row.hardware).capacity_bytes
        text = memory_table(_title(row), memory, row.hardware, room)
        return text, _memory_json(row, memory)
    assert isinstance(config, ProveConfig)
    proof = proved(row, config.item_width)
    text = proof_table(proof, row.hardware, tokens(row))
    return f"{_title(row)}\n{text}", {**row_json(row), **proof.to_json()}


def estimated(row: Row, item_width: int | None = None) -> Memory:
    """Returns a row's memory by closed form; see `eqids.fit.memory`."""
    return needed(job_of(row, item_width), on_paper(row))


def proved(row: Row, item_width: int | None = None) -> Proof:
    """Returns what the compiler says of a row's train step."""
    put, job = on_target(row), job_of(row, item_width)
    with put.active():
        run = abstract_run(job, put)
        return prove(run.step, run.args, hardware(row.hardware), row.num_hosts)


def prove_all(path: Path, say: Callable[[str], None]) -> None:
    """Proves every row that a file of proofs lacks, and writes it after each one.

    Raises:
        UserError: the file holds something else, or a row does not fit its hardware.
    """
    proofs: dict[str, Any] = {}
    if path.exists():
        try:
            proofs = json.loads(path.read_text(encoding="utf-8"))["layouts"]
            require(isinstance(proofs, dict), f"{path} holds a list of layouts")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} holds no proofs, wanted those of an earlier run, or another "
                "--json"
            ) from error
    for name, row in ROWS.items():
        told = json.loads(json.dumps(row_json(row)))
        if not told.items() <= proofs.get(name, {}).items():
            memory, proof = estimated(row), proved(row)
            said = {"estimated_peak_bytes": memory.peak, "tokens": tokens(row)}
            proofs[name] = {**told, **proof.to_json(), **said}
            write_json(path, {"layouts": proofs})
            say(f"{name}: {_verdict(proof)}")
    proofs = {name: proofs[name] for name in ROWS}
    tight = [name for name, proof in proofs.items() if not proof["fits"]]
    require(not tight, f"layouts that do not fit their hardware: {', '.join(tight)}")
    say(proofs_table(proofs))


def proofs_table(proofs: Mapping[str, Any]) -> str:
    """Returns the proofs of `prove_all` as a table in Markdown."""
    head = (
        "layout", "mesh", "batch", "remat", "given", "made", "peak", "of",
        "closed form", "TFLOP", "gathered, summed, scattered",
        "ms: products / memory / links",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, proof in proofs.items():
        shared = [
            f"{proof['collective_bytes'].get(kind, 0) / GIB:.2f}"
            for kind in ("all-gather", "all-reduce", "reduce-scatter")
        ]
        least = proof["roofline_seconds"] or {}
        sizes = [
            f"{proof[f'{kind}_bytes'] / GIB:.2f}"
            for kind in ("argument", "temp", "peak", "capacity")
        ]
        off = proof["estimated_peak_bytes"] / proof["peak_bytes"] - 1
        cells = [
            name,
            "x".join(map(str, proof["mesh_shape"])),
            f"{proof['batch_size']} x {proof['seq_len']}",
            "yes" if proof["remat"] else "no",
            *sizes,
            f"{100 * off:+.0f}%",
            f"{proof['flops'] / 1e12:.2f}",
            ", ".join(shared),
            " / ".join(f"{1e3 * seconds:.0f}" for seconds in least.values()) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _list() -> Answer:
    lines = [
        f"{'name':<30}{'mesh (data x fsdp x tensor)':<30}{'batch':>12}  remat  items"
    ]
    for row in ROWS.values():
        lines.append(
            f"{row.name:<30}{_mesh(row):<30}{f'{row.batch_size} x {row.seq_len}':>12}"
            f"  {'yes' if row.remat else 'no':<5}  {row.num_items:,}"
        )
    return "\n".join(lines), {"layouts": [row_json(row) for row in ROWS.values()]}


def _show(config: ShowLayoutConfig, row: Row) -> Answer:
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
    lines = [_title(row), ""]
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


def _picture(row: Row) -> list[str]:
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
        "words, where they are gathered": memory.words,
        "most of these at once (about)": memory.temporaries,
        "peak (about)": memory.peak,
        f"{device}, less head-room": room,
    }
    lines = [title, "a device's memory, GiB, by closed form:"]
    lines += [f"  {name:<36}{size / GIB:9.3f}" for name, size in parts.items()]
    lines.append("  it fits" if memory.peak <= room else "  IT DOES NOT FIT")
    return "\n".join(lines)


def memory_report(job: Job, put: Placement, name: HardwareName | None) -> str:
    """Returns what a run's step needs of a device, estimated and compiled.

    Args:
        job: what is trained.
        put: its layout, over the devices that are there.
        name: the hardware to answer for, by default the devices that are there.
    """
    memory = needed(job, put)
    room = room_there() if name is None else hardware(name).capacity_bytes
    device = "a device that is there" if name is None else name
    shape = (1, 1, 1) if put.layout is None else put.layout.mesh_shape
    title = (
        f"{job.strategy} trains, mesh {' x '.join(map(str, shape))} (data x fsdp x "
        f"tensor), batch {job.recipe.batch_size} x {job.recipe.seq_len}, {job.dtype}"
    )
    text = memory_table(title, memory, device, room)
    machine = hardware(name or "cpu")
    if name not in (None, "cpu"):
        layout = put.layout or named_layout("data", 1)
        try:
            devices = gpu_devices(machine, 1, math.prod(layout.mesh_shape))
        except LayoutError as error:
            return f"{text}\nnot compiled: {error}"
        put = Placement(layout, make_mesh(layout, devices))
    with put.active():
        run = abstract_run(job, put)
        proof = prove(run.step, run.args, machine)
    proof = dataclasses.replace(proof, capacity_bytes=room)
    tokens = job.recipe.batch_size * job.recipe.seq_len
    return f"{text}\n{proof_table(proof, device, tokens)}"


def proof_table(proof: Proof, device: str, tokens: int) -> str:
    """Returns a proof as lines to print.

    Args:
        proof: what the compiler said.
        device: what it was asked to compile for.
        tokens: positions in a batch.
    """
    lines = [
        f"compiled for {device} in {proof.compile_seconds:.0f} s; of one device:",
        f"  {'given to a step':<28}{proof.argument_bytes / GIB:9.3f} GiB",
        f"  {'made by a step':<28}{proof.temp_bytes / GIB:9.3f} GiB",
        f"  {'peak':<28}{proof.peak_bytes / GIB:9.3f} GiB",
        f"  {'memory less head-room':<28}{proof.capacity_bytes / GIB:9.3f} GiB: "
        f"{'it fits' if proof.fits else 'IT DOES NOT FIT'}",
        f"  {'matrix products':<28}{proof.flops / 1e12:9.3f} TFLOP a step",
    ]
    for kind, size in proof.collective_bytes.items():
        lines.append(f"  {kind:<28}{size / GIB:9.3f} GiB a step")
    least = proof.roofline
    if least is not None:
        lines.append(
            f"  a perfect machine needs {1e3 * least.compute_seconds:.1f} ms for "
            f"products, {1e3 * least.memory_seconds:.1f} for memory, "
            f"{1e3 * least.link_seconds:.1f} for links: bound by {least.bound}, at "
            f"most {tokens / least.seconds:,.0f} tokens/s"
        )
    return "\n".join(lines)


def tokens(row: Row) -> int:
    """Returns the positions in a batch."""
    return row.batch_size * row.seq_len


def _verdict(proof: Proof) -> str:
    return (
        f"peak {proof.peak_bytes / GIB:.2f} of {proof.capacity_bytes / GIB:.2f} GiB, "
        f"{'fits' if proof.fits else 'DOES NOT FIT'}"
    )


def _mesh(row: Row) -> str:
    return " x ".join(map(str, row.mesh_shape))


def _title(row: Row) -> str:
    devices = devices_text(row.num_hosts, row.devices_per_host)
    return (
        f"{row.llama_size}, {row.train} trains, {devices} x {row.hardware}, mesh "
        f"{_mesh(row)} (data x fsdp x tensor), batch {row.batch_size} x {row.seq_len}, "
        f"{row.num_items:,} items{', blocks recomputed' if row.remat else ''}"
    )


def row_json(row: Row) -> Mapping[str, Any]:
    """Returns a row as JSON values."""
    values = dataclasses.asdict(row)
    del values["spelled"]
    return {"name": row.name, **values}


def _memory_json(row: Row, memory: Memory) -> Mapping[str, Any]:
    return {
        **row_json(row),
        **dataclasses.asdict(memory),
        "argument_bytes": memory.arguments,
        "temp_bytes": memory.temporaries,
        "peak_bytes": memory.peak,
        "capacity_bytes": hardware(row.hardware).capacity_bytes,
        "fits": memory.peak <= hardware(row.hardware).capacity_bytes,
    }
