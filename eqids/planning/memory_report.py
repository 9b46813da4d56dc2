"""The answer of `eqids.train --estimate_memory_only`: estimated and compiled."""

import dataclasses
import math

import jax
from jax.sharding import AbstractMesh

from eqids.config import HardwareName
from eqids.planning.abstract import Job, abstract_run
from eqids.planning.estimates import memory_table
from eqids.planning.memory_check import available_bytes, needed
from eqids.planning.proof_tables import proof_table
from sharding import LayoutError, Placement, make_mesh, named_layout
from sharding.compiled.machines import hardware
from sharding.compiled.proof import prove
from sharding.compiled.targets import gpu_devices


def memory_report(job: Job, put: Placement, name: HardwareName | None) -> str:
    """Returns what a run's step needs of a device, estimated and compiled.

    Args:
        job: what is trained.
        put: its layout, over the devices of this run.
        name: the hardware to answer for, by default the devices of this run.
    """
    recipe, memory = job.step.recipe, needed(job, put)
    capacity = available_bytes() if name is None else hardware(name).capacity_bytes
    device = "a device of this machine" if name is None else name
    shape = (1, 1, 1) if put.layout is None else put.layout.mesh_shape
    title = (
        f"{job.step.strategy} trains, mesh {' x '.join(map(str, shape))} (data x fsdp "
        f"x tensor), batch {recipe.batch_size} x {recipe.seq_len}, {job.step.dtype}"
    )
    text = memory_table(title, memory, device, capacity)
    machine = hardware(name or "cpu")
    if name not in (None, "cpu"):
        layout = put.layout or named_layout("data", 1)
        try:
            devices = gpu_devices(machine, 1, math.prod(layout.mesh_shape))
        except LayoutError as error:
            return f"{text}\nnot compiled: {error}"
        put = Placement(layout, make_mesh(layout, devices))
    if isinstance(put.mesh, AbstractMesh):
        return (
            f"{text}\nnot compiled: the layout is for {put.mesh.size} devices, this "
            f"machine has {jax.device_count()}"
        )
    with put.active():
        run = abstract_run(job, put)
        proof = prove(run.step, run.args, machine)
    proof = dataclasses.replace(proof, capacity_bytes=capacity)
    positions = recipe.batch_size * recipe.seq_len
    return f"{text}\n{proof_table(proof, device, positions)}"
