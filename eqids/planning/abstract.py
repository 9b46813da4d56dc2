"""A train step and its arguments as shapes: to compile and measure, never to run."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqids.config import ItemOptimizer, ModelConfig, Recipe, Strategy
from eqids.fit.active_clusters import chances, expected_capacity
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import State, Step, make_step, split, start
from eqids.model import Batch, EqIDs
from eqids.model.attention import Kernel
from sharding import Placement, beside, num_shards


@dataclass(frozen=True)
class Job:
    """What a device's memory and time depend on, besides the layout."""

    sizes: ModelConfig
    """The model's."""
    recipe: Recipe
    """The batch's size, and the schedule."""
    strategy: Strategy
    """What trains."""
    dtype: str
    """Of Llama's frozen weights and of products with them."""
    activations: str
    """The dtype of what is between products, see `activations_of`."""
    remat: bool
    """Whether blocks are recomputed in the backward pass."""
    kernel: Kernel
    """Of the attention."""
    items: ItemOptimizer
    """What moves item tables."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    accumulate: int = 1
    """Parts of a batch, computed one after the other."""

    def step(self, optimizer: optax.GradientTransformation) -> Step:
        """Returns the train step of this job."""
        return make_step(
            optimizer, jnp.dtype(self.activations), remat=self.remat,
            kernel=self.kernel, accumulate=self.accumulate,
        )  # fmt: skip


def activations_of(dtype: str, on_cpu: bool) -> str:
    """Returns the dtype of activations: float32 on a CPU, else that of the weights.

    XLA's CPU programs convert bfloat16 to float32 wherever they move or add it, and
    what a scan keeps for its backward pass over and over (docs/performance.md).
    """
    return "float32" if on_cpu else dtype


@dataclass(frozen=True)
class AbstractRun:
    """A train step with the shapes of its arguments, on a mesh that may not exist."""

    step: Step
    state: State
    frozen: EqIDs
    batch: Batch
    key: Any
    active: Any

    @property
    def args(self) -> tuple[Any, ...]:
        """Returns what the step is called with."""
        return self.state, self.frozen, self.batch, self.key, self.active


def abstract_run(job: Job, put: Placement) -> AbstractRun:
    """Returns the train step of a job, ready to be lowered; within `put.active()`.

    The list of touched clusters has room for a batch of items that are all equally
    popular, which touches most.

    Args:
        job: what is trained.
        put: its layout, on a mesh of any devices.

    Raises:
        LayoutError: the layout does not fit the model or the batch.
    """
    recipe, dtype = job.recipe, jnp.dtype(job.dtype)
    optimizer = make_optimizer(recipe, job.grad_clip, job.items)
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = put(eqx.filter_eval_shape(EqIDs, job.sizes, key=key))
    shape = (recipe.batch_size, recipe.seq_len)
    batch = put(jax.eval_shape(lambda: Batch(*[jnp.zeros(shape, jnp.int32)] * 6)))
    params, frozen = eqx.filter_eval_shape(split, model, job.strategy, dtype)
    state = jax.eval_shape(partial(start, optimizer=optimizer), params)
    active = None
    if job.items != "dense":
        table = params.softmax.table
        ways = num_shards(table)
        uniform = np.ones(table.shape[0])
        draws = recipe.batch_size * (recipe.seq_len + 1)
        length = ways * expected_capacity(chances(uniform, draws), ways)
        active = beside(jax.ShapeDtypeStruct((length,), jnp.int32), table)
    step = job.step(optimizer)
    return AbstractRun(step, state, frozen, batch, key, active)
