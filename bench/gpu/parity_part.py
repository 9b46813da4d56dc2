"""The first losses of a recipe on this device, against float32 on a CPU."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu.device_step import job_of
from bench.gpu.gpu_cases import ParityCase
from bench.gpu.made_histories import made_batches
from bench.gpu.part_context import GpuRow, PartContext
from eqids.data.batches.host_batch import HostBatch
from eqids.fit import State, make_optimizer, make_step, split, start
from eqids.fit.step import Step
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import Job
from eqids.runs.run_keys import run_keys


def measure(case: ParityCase, context: PartContext) -> Iterator[GpuRow]:
    """Yields how far the losses of each way to compute are from the reference's."""
    job, batches = parity_job(case, context)
    num_items = case.step.num_items
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    wanted = losses(_in(job, "float32", "xla"), num_items, batches, context.seed, cpu)
    yield GpuRow(
        f"float32 on the CPU, {case}", {"first": wanted[0], "last": wanted[-1]}
    )
    ways = [("float32", "xla"), ("bfloat16", "xla")]
    ways += [("bfloat16", "cudnn")] if context.on_gpu else []
    for dtype, kernel in ways:
        here = _in(job, dtype, kernel)
        got = losses(here, num_items, batches, context.seed, device)
        off = np.abs(np.array(got) / np.array(wanted) - 1)
        yield GpuRow(
            f"{dtype}, {kernel}, {case}",
            {"first": got[0], "last": got[-1], "off at first": float(off[0]),
             "off at most": float(off.max())},
        )  # fmt: skip


def parity_job(
    case: ParityCase, context: PartContext
) -> tuple[Job, Sequence[HostBatch]]:
    """Returns a run's job, and its first batches."""
    job = job_of(case.step, context.platform)
    # As in a run with default flags, which plans for hardware leave out.
    job = dataclasses.replace(job, model=dataclasses.replace(job.model, skip=True))
    return job, made_batches(case.step, job.model, case.num_steps, context.seed)


def losses(
    job: Job,
    num_items: int,
    batches: Sequence[HostBatch],
    seed: int,
    device: Any,
) -> list[float]:
    """Returns the losses of a run's first steps on one device.

    Args:
        job: the model and its step; item tables have a dense optimizer.
        num_items: the items, in the first slots of the catalog.
        batches: of one step each.
        seed: of the weights and of dropout, which all devices draw alike.
        device: computes everything; float32 in full, where a GPU would round to TF32.
    """
    first, key = run_keys(seed)
    start_of_run, step = _programs(job, num_items)
    full = jax.default_matmul_precision("highest")
    with jax.default_device(device), full:
        state, frozen = start_of_run(first)
        found = []
        for batch in batches:
            state, metrics = step(state, frozen, Batch.of(batch), key)
            found.append(metrics.loss)
        return [float(loss) for loss in found]


@functools.cache
def _programs(job: Job, num_items: int) -> tuple[Callable[..., Any], Step]:
    """What a run starts from, by its key, and its step; compiled once for a device."""
    return jax.jit(functools.partial(_first, job, num_items)), make_step(job.step)


def _first(job: Job, num_items: int, key: Any) -> tuple[State, EqIDs]:
    """The state and the frozen weights that a run starts from."""
    places = job.model.num_clusters, job.model.cluster_size
    valid = np.arange(places[0] * places[1]).reshape(places) < num_items
    model = EqIDs(job.model, valid=valid, key=key)
    params, frozen = split(model, job.step.strategy, jnp.dtype(job.step.dtype))
    return start(params, make_optimizer(job.step)), frozen


def _in(job: Job, dtype: str, kernel: Any) -> Job:
    """The job with another dtype and kernel."""
    step = dataclasses.replace(
        job.step, dtype=dtype, activations=dtype, kernel=kernel, item_optimizer="dense"
    )
    return dataclasses.replace(job, step=step)
