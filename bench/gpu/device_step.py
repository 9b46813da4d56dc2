"""A train step whose weights are made on the device, and its timing.

Random weights are usually drawn in float32 and then cast, which needs more of the
device's memory than a step of a frozen Llama. Here each array is computed in its own
dtype from the numbers of its entries, so that a process's peak memory is the step's.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from bench.clock import Spread
from bench.flops import Amount, train_flops
from bench.gpu.gpu_cases import GpuPlatform, StepCase
from bench.gpu.made_histories import made_batches
from eqids.config import HardwareName
from eqids.data.batches.host_batch import HostBatch
from eqids.fit.active_clusters import ClusterLists
from eqids.fit.step import State
from eqids.model import Batch, EqIDs
from eqids.planning.abstract import AbstractRun, Job, abstract_run
from eqids.planning.layout_presets import LayoutPreset
from eqids.planning.memory import Memory, estimate
from eqids.planning.preset_jobs import preset_job
from sharding import placement

_SPREAD = 0.02 * 2**0.5
"""The entries are a sine times this: their deviation is that of Llama's weights."""
_FACTORS = 12.9898, 78.233, 37.719, 4.5813
"""By axis, what the sine's argument grows by from one entry to the next."""


def preset_of_case(case: StepCase, hardware: HardwareName) -> LayoutPreset:
    """Returns a case as `python -m sharding prove` knows it: a preset for one device.

    Args:
        case: the step.
        hardware: the device, a name of `HARDWARE`.
    """
    return LayoutPreset(
        case.llama_size, case.train, hardware, 1, 1, (1, 1, 1), case.batch_size,
        case.seq_len, case.remat, case.num_items,
    )  # fmt: skip


def job_of(case: StepCase, platform: GpuPlatform) -> Job:
    """Returns the job of a case: on a GPU in bfloat16, on a CPU in float32.

    Only whether it is a GPU matters: the program is the same for every card.
    """
    hardware: HardwareName = "cpu" if platform == "cpu" else "h100-80gb"
    job = preset_job(preset_of_case(case, hardware))
    return replace(job, step=replace(job.step, unroll=case.unroll))


@dataclass(frozen=True)
class PredictedStep:
    """A train step with the shapes of its arguments, and its memory by closed form."""

    job: Job
    run: AbstractRun
    memory: Memory


def predicted(job: Job) -> PredictedStep:
    """Returns a job's step on one device, before anything is on it."""
    put = placement("none")
    with put.active():
        run = abstract_run(job, put)
        return PredictedStep(job, run, estimate(job, run))


class DeviceStep:
    """A train step on the default device, compiled before its arguments are made."""

    def __init__(self, step: PredictedStep, batches: list[HostBatch], seed: int):
        """Compiles the step, then makes its arguments.

        Args:
            step: from `predicted`.
            batches: steps use them in turn; they are on the device from then on.
            seed: of the steps' randomness.
        """
        run = step.run
        start = time.perf_counter()
        self.program: Any = run.step.lower(*run.args).compile()
        self.compile_seconds = time.perf_counter() - start
        # One program, which compiles faster than one for each array.
        make = jax.jit(lambda: (made_state(run.state), made(run.frozen)))
        self.state, self.frozen = make()
        self._key = jax.random.key(seed)
        model, active = step.job.model, run.active
        lists = ClusterLists(
            model.num_clusters, model.cluster_size, 1,
            1 if active is None else active.shape[0],
        )  # fmt: skip
        self._batches = [
            (Batch.of(b), None if active is None else jnp.asarray(lists.of_batch(b)))
            for b in batches
        ]
        self._turn = 0
        self.amount = Amount.of(batches[:1])
        self.flops = train_flops(model, step.job.step.strategy, self.amount)

    def __call__(self) -> Any:
        """Makes one step, without waiting for it, and returns its loss."""
        batch, active = self._batches[self._turn % len(self._batches)]
        self._turn += 1
        args = self.state, self.frozen, batch, self._key, active
        self.state, metrics = self.program(*args)
        return metrics.loss

    def rewind(self, steps: int) -> None:
        """Makes the next steps use the batches of the last ones again."""
        self._turn -= steps

    def run(self) -> None:
        """Makes one step, and waits for it."""
        jax.block_until_ready(self())

    def times(self, together: int, repetitions: int, budget: float) -> Spread:
        """Returns the seconds of a step, as in training: several between two waits.

        Args:
            together: steps between two waits.
            repetitions: most of these to time.
            budget: seconds for all of them.
        """
        self.run()
        self.run()
        found, end = list[float](), time.monotonic() + budget
        while not found or (len(found) < repetitions and time.monotonic() < end):
            start = time.perf_counter()
            for _ in range(together):
                loss = self()
            jax.block_until_ready((loss, self.state))
            found.append((time.perf_counter() - start) / together)
        return Spread.of(tuple(found))


def step_of(
    case: StepCase, platform: GpuPlatform, seed: int, num_batches: int = 4
) -> DeviceStep:
    """Returns the step of a case on packed batches, on the default device."""
    step = predicted(job_of(case, platform))
    batches = made_batches(case, step.job.model, num_batches, seed)
    return DeviceStep(step, batches, seed)


def made_state(shapes: State) -> State:
    """Returns a state at step 0: weights as `made`, the optimizer's zeros."""
    zeros = jax.tree.map(_zeros, (shapes.step, shapes.optimizer))
    return State(zeros[0], made(shapes.params), zeros[1])


def made(shapes: EqIDs) -> EqIDs:
    """Returns a model of these shapes; norms are ones, and all places hold an item."""
    model = jax.tree.map(_entries, shapes)

    def norms(model: EqIDs) -> list[PyTree]:
        llama = model.llama
        found = [llama.norm, llama.blocks.attention_norm, llama.blocks.ffn_norm]
        return [x for x in found if x is not None]

    if not norms(model):
        return model
    return eqx.tree_at(norms, model, replace_fn=jnp.ones_like)


def _entries(x: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return _sines(x.shape, x.dtype)
    return jnp.ones(x.shape, x.dtype) if x.dtype == bool else _zeros(x)


def _zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(x.shape, x.dtype)


def _sines(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """One fusion without temporaries, so that the largest arrays fit."""
    at = jnp.ones(shape, jnp.float32)
    for axis in range(len(shape)):
        number = jax.lax.broadcasted_iota(jnp.float32, shape, axis)
        at = at + _FACTORS[axis] * number
    return (_SPREAD * jnp.sin(at)).astype(dtype)
