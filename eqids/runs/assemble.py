"""Assembles the whole model of a checkpoint: its stored arrays, and the frozen
Llama."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from eqids.config import ModelConfig, RunConfig, Strategy, from_json, require
from eqids.data import Dataset
from eqids.fit.step import split
from eqids.fit.strategy import stored
from eqids.model import EqIDs
from eqids.runs.frozen_llama import frozen_llama
from eqids.runs.new_model import counts_of, initial_model, sizes_for
from eqids.runs.recorded_folders import llama_of_run
from eqids.runs.run_keys import run_keys
from eqids.runs.same_sizes import other_sizes
from sharding import Placement


def assemble(
    path: Path,
    meta: Mapping[str, Any],
    params_of: Callable[[EqIDs, EqIDs], EqIDs],
    dataset: Dataset,
    llama_path: Path | None,
    put: Placement,
    strategy: Strategy | None = None,
) -> EqIDs:
    """Returns the whole model of a checkpoint or a pair, placed on devices.

    A *pair* is a folder that `convert eqids-to-hf` wrote: a Llama and the rest of the
    model.

    Args:
        path: the checkpoint or the pair, for messages.
        meta: what it records.
        params_of: returns the stored arrays, given their shapes where `put` places
            them, and their shapes as stored (without the empty clusters that pad a
            catalog to a mesh).
        dataset: a dataset with the catalog that the model was trained on.
        llama_path: the Llama's folder, by default the one of the run.
        put: places the model.
        strategy: determines which arrays are stored; by default the run's.

    Raises:
        UserError: the model was trained over another Llama.
    """
    config = from_json(RunConfig, meta["config"], f"{path}: config")
    sizes = from_json(ModelConfig, meta["model"], f"{path}: model")
    sizes = sizes_for(sizes, dataset)
    abstract = eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0))
    strategy = strategy or config.strategy
    held = stored(abstract, strategy)
    params = params_of(eqx.filter(put(abstract), held), eqx.filter(abstract, held))
    if strategy == "all":
        rest = eqx.filter(abstract, held, inverse=True)
        valid = jnp.asarray(dataset.item_valid)
        rest = eqx.tree_at(lambda m: m.softmax.valid, rest, valid)
        if sizes.num_successors:
            counts = eqx.tree_at(lambda c: c.gate, counts_of(dataset), None)
            rest = eqx.tree_at(lambda m: m.successors, rest, counts)
    else:
        folder = llama_of_run(path, config, llama_path)
        llama = frozen_llama(meta["base"], folder, config.dtype, put)
        was, now = other_sizes(sizes.llama, llama.config if llama else sizes.llama)
        require(
            not was,
            f"{folder}/config.json says {now}, and {path} was trained with {was}; "
            "wanted the config.json that it was trained with, see --llama_path",
        )
        key, _ = run_keys(config.flags.seed)
        whole = initial_model(sizes, dataset, llama, key)
        _, rest = split(whole, config.strategy, jnp.dtype(config.dtype))
    return eqx.combine(params, put(rest))
