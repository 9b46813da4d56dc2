"""What a step needs of memory, known before anything is allocated."""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from eqids.config import ItemOptimizer, ModelConfig, RunConfig
from eqids.data import Dataset
from eqids.fit.optimizer import make_optimizer
from eqids.fit.step import make_step, split, start
from eqids.fit.touching import touching
from eqids.model import Batch, EqIDs
from sharding import Placement, beside, shards


def estimate(
    config: RunConfig,
    sizes: ModelConfig,
    put: Placement,
    dataset: Dataset,
    items: ItemOptimizer,
) -> dict[str, int]:
    """Returns the bytes of one device that a train step needs.

    The step is compiled for this machine from shapes alone, so that a model which
    does not fit is told so in seconds.

    Args:
        config: the run's.
        sizes: the model's.
        put: its layout.
        dataset: how often a batch touches which clusters.
        items: what moves item tables.

    Returns:
        `weights` (all of the model's), `state` (what trains, and its optimizer),
        `temporaries`, and the `total` of what lives at once.
    """
    recipe, flags, dtype = config.recipe, config.flags, jnp.dtype(config.dtype)
    optimizer = make_optimizer(recipe, flags.grad_clip, items)
    model = put(eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0)))
    shape = (recipe.batch_size, recipe.seq_len)
    batch = put(jax.eval_shape(lambda: Batch(*[jnp.zeros(shape, jnp.int32)] * 6)))
    params, frozen = eqx.filter_eval_shape(split, model, config.strategy, dtype)
    state = jax.eval_shape(partial(start, optimizer=optimizer), params)
    step = make_step(optimizer, dtype, remat=flags.remat)
    key = jax.eval_shape(lambda: jax.random.key(0))
    touched = None
    if items != "dense":
        table = params.softmax.table
        lists = touching(dataset, recipe, shards(table))
        length = lists.shards * lists.capacity
        touched = beside(jax.ShapeDtypeStruct((length,), jnp.int32), table)
    compiled = step.lower(state, frozen, batch, key, touched).compile()
    memory = compiled.memory_analysis()
    return {
        "weights": _bytes((params, frozen)),
        "state": _bytes(state),
        "temporaries": memory.temp_size_in_bytes,
        "total": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }


def _bytes(tree: object) -> int:
    """Bytes of one device's shards."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = leaf.sharding
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total
