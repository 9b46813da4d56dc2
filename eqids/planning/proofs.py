"""What `python -m sharding prove` answers: steps compiled for their hardware."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eqids.config import HardwareName, ProveConfig, UserError, require
from eqids.io.atomic import write_json
from eqids.planning.abstract import Job, abstract_run
from eqids.planning.estimates import (
    Answer,
    estimated,
    memory_table,
    row_json,
    title,
    tokens,
)
from eqids.planning.fitting import needed, room_there
from eqids.planning.jobs import job_of, on_target, row_of
from eqids.planning.named_layouts import LAYOUT_PRESETS, LayoutPreset
from sharding import (
    LayoutError,
    Placement,
    Proof,
    gpu_devices,
    hardware,
    make_mesh,
    named_layout,
    prove,
)
from sharding.compiled.machines import GIB


def answer(config: ProveConfig) -> Answer:
    """Returns what the compiler says of the layout that was asked for.

    Raises:
        LayoutError: there is no such layout, or it fits no model, batch or compiler.
    """
    row = row_of(config)
    proof = proved(row, config.item_width)
    text = proof_table(proof, row.hardware, tokens(row))
    return f"{title(row)}\n{text}", {**row_json(row), **proof.to_json()}


def proved(row: LayoutPreset, item_width: int | None = None) -> Proof:
    """Returns what the compiler says of a row's train step."""
    put, job = on_target(row), job_of(row, item_width)
    with put.active():
        run = abstract_run(job, put)
        proof = prove(run.step, run.args, hardware(row.hardware), row.num_hosts)
    return dataclasses.replace(proof, capacity_bytes=row.capacity_bytes)


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
    for name, row in LAYOUT_PRESETS.items():
        told = json.loads(json.dumps(row_json(row)))
        if not told.items() <= proofs.get(name, {}).items():
            memory, proof = estimated(row), proved(row)
            said = {"estimated_peak_bytes": memory.peak, "tokens": tokens(row)}
            proofs[name] = {**told, **proof.to_json(), **said}
            write_json(path, {"layouts": proofs})
            say(f"{name}: {_verdict(proof)}")
    proofs = {name: proofs[name] for name in LAYOUT_PRESETS}
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


def _verdict(proof: Proof) -> str:
    return (
        f"peak {proof.peak_bytes / GIB:.2f} of {proof.capacity_bytes / GIB:.2f} GiB, "
        f"{'fits' if proof.fits else 'DOES NOT FIT'}"
    )
