"""Where a run starts: new weights, those of another run, or its newest checkpoint."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqids.checkpoints import Saver, latest_step, read_manifest, restore_sound
from eqids.cli import say, waiting, warn
from eqids.config import ModelConfig, RunConfig, require
from eqids.data import Dataset
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.fit.cold_start import ColdItems
from eqids.fit.dataset_clusters import cluster_lists
from eqids.fit.evaluation import make_ranker, of_some_users
from eqids.fit.optimizer import make_optimizer
from eqids.fit.placed_batches import PlacedBatches
from eqids.fit.run import Run
from eqids.fit.run_checkpoints import RunCheckpoints
from eqids.fit.step import (
    State,
    make_step,
    outline,
    split,
    start,
    stored_shapes,
    with_text,
)
from eqids.fit.step_config import StepConfig
from eqids.fit.strategy import text_of, without_text
from eqids.model import EqIDs
from eqids.runs.checkpoint_meta import run_meta
from eqids.runs.inputs import RunInputs
from eqids.runs.loaded_weights import load_pair_weights, load_weights
from eqids.runs.messages import first_lines
from eqids.runs.new_model import initial_model
from eqids.runs.pretrained_llama import load_pretrained
from eqids.runs.run_keys import run_keys
from eqids.runs.run_step import step_config
from eqids.runs.run_tokens import prompt_computed, say_once
from eqids.runs.same_run import check_same
from eqids.runs.text_features import LlamaEncoder, text_features
from eqids.runs.text_vectors import text_start, texts_to_read
from sharding import Placement, num_shards, replicated

_TextVectors = Float[np.ndarray, "cluster place encoding"]


def start_or_restore(
    inputs: RunInputs, sizes: ModelConfig, put: Placement, saver: Saver
) -> tuple[Run, State]:
    """Returns a run and the state that it starts from, and prints its first lines.

    It is called within `put.active()`.

    Args:
        inputs: the run's inputs, from `complete_inputs`.
        sizes: the model's sizes.
        put: places all arrays.
        saver: the saver of the run's folder.

    Raises:
        UserError: the folder holds another run or damaged steps only, or the weights
            to start from do not fit.
    """
    dataset, folder = inputs.dataset, saver.directory
    step = step_config(inputs.config, sizes.llama)
    config, checkpoints, state, frozen, text = _started(inputs, sizes, step, put, saver)
    _check_stop(config, state, folder)
    dtype = jnp.dtype(config.dtype)
    prefix, tokens = prompt_computed(
        frozen.llama, inputs.tokens, config.strategy, dtype
    )
    batches = TrainingBatches(dataset, _batch_config(config), tokens)
    run = Run(
        config=config,
        step=make_step(step),
        key=run_keys(config.flags.seed)[1],
        frozen=frozen,
        prefix=prefix,
        cold=_cold_items(dataset, text, frozen, put),
        batches=_placed(batches, inputs, checkpoints, put),
        dataset=of_some_users(dataset, config.recipe.eval_users or None),
        ranker=make_ranker(config.recipe.seq_len, dtype, put, tokens, prefix),
        checkpoints=checkpoints,
    )
    say(first_lines(inputs, sizes.llama, state))
    return run, state


def _check_stop(config: RunConfig, state: State, folder: Path) -> None:
    require(
        int(state.step) <= config.stop_at,
        f"--stop_at is {config.stop_at}, and {folder} is at step {int(state.step)} "
        "already",
    )


class _NewState(NamedTuple):
    """A run at step 0."""

    config: RunConfig
    state: State
    """As checkpoints hold it, see `with_text`."""
    frozen: EqIDs
    stored: State
    """Shapes of the state in checkpoints."""
    base: str | None
    """Fingerprint of the pretrained Llama."""
    text: _TextVectors | None
    """Vectors of texts, if item vectors start from them."""


def _new_state(
    inputs: RunInputs,
    sizes: ModelConfig,
    step: StepConfig,
    put: Placement,
    *,
    is_new: bool,
) -> _NewState:
    config, dataset = inputs.config, inputs.dataset
    flags, dtype = config.flags, jnp.dtype(config.dtype)
    texts = texts_to_read(flags, dataset, sizes.llama, say_once)
    llama, base = load_pretrained(config, put)
    text = None
    if texts is not None:
        assert llama is not None, "the recipe refuses texts without"
        text = text_start(texts, dataset, llama, sizes.item_width, dtype, put)
    key, _ = run_keys(flags.seed)
    features = None
    if sizes.text_width and is_new and flags.starts_from is None:
        # Other runs have the text columns of the checkpoint that they start from.
        encoder = LlamaEncoder.of_run(flags, llama, base)
        encodings = encoder.encodings(dataset, dtype, put, say_once)
        features = text_features(encodings, sizes)
        config = dataclasses.replace(config, text_encoder=encoder.source)
    with waiting("making the first weights"):
        model = initial_model(
            sizes, dataset, llama, key, flags.init_items, text, features
        )
    optimizer = make_optimizer(step)
    stored = stored_shapes(model, config.strategy, optimizer)
    params, frozen = split(put(model), config.strategy, dtype)
    state = with_text(start(params, optimizer), frozen)
    return _NewState(config, state, without_text(frozen), stored, base, text)


def _cold_items(
    dataset: Dataset, text: _TextVectors | None, frozen: EqIDs, put: Placement
) -> ColdItems | None:
    """The unused items of a run, if training leaves them out.

    Args:
        dataset: whose items.
        text: vectors of texts, if item vectors start from them.
        frozen: has the text columns, if items have any.
        put: places arrays.
    """
    columns = frozen.softmax.text
    if columns is not None:
        text = np.asarray(replicated(columns))[: dataset.info.num_clusters]
    return None if text is None else put(ColdItems.of(dataset, text))


class _Started(NamedTuple):
    """What a run starts from; see `_NewState`."""

    config: RunConfig
    checkpoints: RunCheckpoints
    state: State
    frozen: EqIDs
    text: _TextVectors | None


def _started(
    inputs: RunInputs,
    sizes: ModelConfig,
    step: StepConfig,
    put: Placement,
    saver: Saver,
) -> _Started:
    folder, dataset = saver.directory, inputs.dataset
    new = _new_state(inputs, sizes, step, put, is_new=latest_step(folder) is None)
    config, frozen, state, vectors = new.config, new.frozen, new.state, new.text
    meta = partial(run_meta, config, sizes, dataset, new.base)
    checkpoints = RunCheckpoints(
        saver, meta, outline(state), new.stored, text_of(state.params)
    )
    del new
    if latest_step(folder) is not None:
        del state  # otherwise two states would be in memory
        state = _resume(folder, checkpoints)
    else:
        state = _with_weights(state, config, checkpoints, put)
    text = text_of(state.params)
    checkpoints = dataclasses.replace(checkpoints, text=text)
    state = dataclasses.replace(state, params=without_text(state.params))
    return _Started(config, checkpoints, state, eqx.combine(text, frozen), vectors)


def _resume(folder: Path, checkpoints: RunCheckpoints) -> State:
    """Returns the newest undamaged state in a run's folder, which holds checkpoints.

    Raises:
        UserError: the folder holds another run (the message names the first
            difference), or damaged steps only.
    """
    path = folder / str(latest_step(folder))
    check_same(path, read_manifest(path).meta, checkpoints.meta(None, 0.0))
    like, stored = checkpoints.like, checkpoints.stored
    with waiting(f"restoring {path}"):
        _, state = restore_sound(folder, latest_step, like, stored, warn)
    return state


def _with_weights(
    state: State, config: RunConfig, checkpoints: RunCheckpoints, put: Placement
) -> State:
    """Returns a new run's state, with the weights of another run if flags name one."""
    flags, stored = config.flags, checkpoints.stored
    meta: Mapping[str, Any] = checkpoints.meta(None, 0.0)
    if flags.load_checkpoint is not None:
        return load_weights(state, stored, flags.load_checkpoint, meta, put)
    if flags.init_from is not None:
        return load_pair_weights(state, stored, flags.init_from, meta, put)
    return state


def _batch_config(config: RunConfig) -> BatchConfig:
    flags, recipe = config.flags, config.recipe
    return BatchConfig(
        seq_len=recipe.seq_len,
        batch_size=recipe.batch_size,
        seed=flags.seed,
        gap_dropout=flags.gap_dropout,
        shuffle_ties=flags.shuffle_ties,
        request_time=flags.request_time,
    )


def _placed(
    batches: TrainingBatches,
    inputs: RunInputs,
    checkpoints: RunCheckpoints,
    put: Placement,
) -> PlacedBatches:
    table, lists = checkpoints.like.params.softmax.table, None
    if inputs.config.flags.item_optimizer != "dense":
        recipe = inputs.config.recipe
        lists = cluster_lists(inputs.dataset, recipe, num_shards(table))
    return PlacedBatches(batches, put, table, lists)
