"""A train step and its arguments as shapes: to compile and measure, never to run."""

import dataclasses
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqids.config import ModelConfig, RunConfig
from eqids.fit.active_clusters import chances, expected_capacity
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import State, Step, make_step, split, start
from eqids.fit.step_config import StepConfig
from eqids.model import Batch, EqIDs
from eqids.runs.run_step import step_config
from sharding import Placement, beside, num_shards


@dataclass(frozen=True)
class Job:
    """A model and its train step: what memory and time depend on but for the layout."""

    model: ModelConfig
    """The model's sizes."""
    step: StepConfig
    """The step, and the batch's size."""


def job_of_run(config: RunConfig, model: ModelConfig, prefix_length: int = 0) -> Job:
    """Returns the job of a run.

    Args:
        config: the run's; with `--hardware`, the job is for that hardware.
        model: the model's sizes.
        prefix_length: tokens of a prompt that is computed once. They count as if they
            were in the rows: that is no less than their keys take in every row.
    """
    step = step_config(config, model.llama)
    seq_len = step.recipe.seq_len + prefix_length
    recipe = dataclasses.replace(step.recipe, seq_len=seq_len)
    return Job(model, dataclasses.replace(step, recipe=recipe))


@dataclass(frozen=True)
class AbstractRun:
    """A train step with the shapes of its arguments, on a mesh that may not exist."""

    step: Step
    state: State
    frozen: EqIDs
    batch: Batch
    key: jax.ShapeDtypeStruct
    active: jax.ShapeDtypeStruct | None

    @property
    def args(self) -> tuple[object, ...]:
        """Returns the arguments of the step."""
        return self.state, self.frozen, self.batch, self.key, self.active


def abstract_run(job: Job, put: Placement) -> AbstractRun:
    """Returns the train step of a job, ready to be lowered; within `put.active()`.

    The list of active clusters is as long as for a batch of items that are all equally
    popular, which uses the most clusters.

    Args:
        job: what is trained.
        put: its layout, on a mesh of any devices.

    Raises:
        LayoutError: the layout does not fit the model or the batch.
    """
    config, recipe = job.step, job.step.recipe
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = put(eqx.filter_eval_shape(EqIDs, job.model, key=key))
    shape = recipe.batch_size, recipe.seq_len
    batch = put(jax.eval_shape(lambda: Batch.zeros(*shape, job.model.request_time)))
    dtype = jnp.dtype(config.dtype)
    params, frozen = eqx.filter_eval_shape(split, model, config.strategy, dtype)
    optimizer = make_optimizer(config)
    state = jax.eval_shape(partial(start, optimizer=optimizer), params)
    active: jax.ShapeDtypeStruct | None = None
    if config.item_optimizer != "dense":
        table = params.softmax.table
        ways = num_shards(table)
        uniform = np.ones(table.shape[0])
        draws = recipe.batch_size * (recipe.seq_len + 1)
        length = ways * expected_capacity(chances(uniform, draws), ways)
        placed = beside(jax.ShapeDtypeStruct((length,), jnp.int32), table)
        assert isinstance(placed, jax.ShapeDtypeStruct)
        active = placed
    return AbstractRun(make_step(config), state, frozen, batch, key, active)
