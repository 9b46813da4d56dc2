"""One run of training, from its flags to its result."""

import dataclasses
import functools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import convert
from convert.hf_eqids import read_pair
from convert.hub import fetch_llama
from eqids.checkpoints import (
    Retention,
    Saver,
    best_step,
    latest_step,
    recover,
    restore_sound,
)
from eqids.cli import say, shell_word, warn
from eqids.config import (
    LLAMA_PRESETS,
    LlamaConfig,
    ModelConfig,
    PrepareConfig,
    RunConfig,
    TrainConfig,
    require,
    same_path,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.data.preparation import prepare
from eqids.fit.active_clusters import active_lists, chosen
from eqids.fit.cold_start import ColdItems
from eqids.fit.evaluation import evaluate, make_ranker, of_some_users
from eqids.fit.loop import train
from eqids.fit.optimizer import make_optimizer
from eqids.fit.results import full_result, table
from eqids.fit.step import State, outline, split, start, stored_shapes
from eqids.inference.open import check_pair_catalog
from eqids.io.atomic import write_json
from eqids.model import Llama
from eqids.planning.fitting import check_fits, room_there
from eqids.planning.jobs import job_of_run
from eqids.planning.named_layouts import placement_of
from eqids.planning.proofs import memory_report
from eqids.runs.identity import (
    RESULT_FILE,
    check_dataset_there,
    check_fresh,
    check_llama_there,
    check_start,
    initial_model,
    item_optimizer,
    model_config,
    resume,
    run_keys,
    run_meta,
)
from eqids.runs.recipe import DEFAULT_DATA, resolved, wants_hub
from eqids.runs.run_tokens import (
    check_reads_alike,
    check_vocab,
    prefix_length,
    prompt_computed,
    requested_tokens,
)
from eqids.runs.same_sizes import other_sizes
from eqids.runs.starting import load_pair_weights, newest_of, source_of
from eqids.runs.text_vectors import text_start, texts_asked
from eqids.runs.weights import load_weights
from sharding import Placement, barrier, is_first, num_shards

_say_once = functools.cache(say)
"""Says a sentence the first time only: texts may be read for two purposes."""


def run_training(flags: TrainConfig) -> None:
    """Trains, evaluates and says what to type next; all processes of a run call it.

    Args:
        flags: the run's, see `flags_taken_over` for those of a run that starts from
            another one's weights.

    Raises:
        UserError: the flags, the dataset or the run's folder do not fit one another.
        Stopped: a signal asked for it, and the step is saved.
    """
    config, put = resolved(flags), placement_of(flags.layout)
    _check_moved(config)
    dataset, folder = _dataset(config), config.checkpoint_dir
    config = _with_llama(config)
    flags = config.flags
    tokens = requested_tokens(flags, dataset, _say_once)
    source = source_of(dataclasses.replace(flags, checkpoint_dir=folder))
    if source is not None:
        other = check_reads_alike(source.path, source.config, flags, dataset, tokens)
        if other is not None:
            warn(other)
    if flags.estimate_memory_only:
        settled = _settled(config, dataset, tokens)
        job = job_of_run(*settled, prefix_length(tokens, config.strategy))
        say(memory_report(job, put, flags.hardware))
        return
    retention = Retention(flags.keep, flags.keep_every)
    saver = Saver(folder, retention, blocking=flags.save_blocking, report=warn)
    with put.active(), saver:
        if flags.fresh:
            check_fresh(folder)
        recover(folder, warn)
        config, sizes = _settled(config, dataset, tokens)
        measured = _train(config, sizes, dataset, tokens, put, saver)
        if measured is None:
            say(f"stopped at step {config.stop_at}; the same command goes on")
        elif is_first():
            asked = of_some_users(dataset, flags.eval_users)
            result = full_result(asked, "test", *measured)
            write_json(folder / RESULT_FILE, result)
            say(table(result))
            say(_closing(folder, dataset))
        barrier("the result is there")


def _settled(
    config: RunConfig, dataset: Dataset, tokens: ItemTokens | None
) -> tuple[RunConfig, ModelConfig]:
    """Returns the run with what its catalog and its folder decide, and its sizes."""
    flags, folder = config.flags, config.checkpoint_dir
    check_start(flags, folder, dataset)
    if flags.init_from is not None and latest_step(folder) is None:
        check_pair_catalog(read_pair(flags.init_from), dataset)
    items = chosen(item_optimizer(flags, folder), dataset, config.recipe)
    flags = dataclasses.replace(flags, item_optimizer=items)
    of_tokens = None if tokens is None else tokens.config
    config = dataclasses.replace(config, flags=flags, tokens=of_tokens)
    return config, model_config(config, dataset, _llama_config(flags, tokens))


def _train(
    config: RunConfig,
    sizes: ModelConfig,
    dataset: Dataset,
    tokens: ItemTokens | None,
    put: Placement,
    saver: Saver,
) -> tuple[Mapping[str, Any], int] | None:
    """Returns metrics on the test split and the step; None before the run's last."""
    flags, recipe, folder = config.flags, config.recipe, config.checkpoint_dir
    dtype = jnp.dtype(config.dtype)
    job = job_of_run(config, sizes, prefix_length(tokens, config.strategy))
    check_fits(job, put, room_there())
    texts = texts_asked(flags, dataset, sizes.llama, _say_once)
    llama, base = _pretrained(config, put)
    first_key, step_key = run_keys(flags.seed)
    known = None
    if texts is not None:
        assert llama is not None, "the recipe refuses texts without"
        known = text_start(texts, dataset, llama, recipe.item_width, dtype, put)
    model = initial_model(sizes, dataset, llama, first_key, flags.init_items, known)
    optimizer = make_optimizer(
        recipe, flags.grad_clip, flags.item_optimizer, flags.schedule,
        flags.llama_learning_rate,
    )  # fmt: skip
    stored = stored_shapes(model, config.strategy, optimizer)
    params, frozen = split(put(model), config.strategy, dtype)
    lists = active_lists(dataset, recipe, num_shards(params.softmax.table))
    state = start(params, optimizer)
    like = outline(state)
    del llama, model, params
    meta = partial(run_meta, config, sizes, dataset, base)
    if latest_step(folder) is not None:
        del state  # or there would be two in memory
        state = resume(folder, like, stored, meta(None), warn)
    elif flags.load_checkpoint is not None:
        state = load_weights(state, stored, flags.load_checkpoint, meta(None), put)
    elif flags.init_from is not None:
        state = load_pair_weights(state, stored, flags.init_from, meta(None), put)
    require(
        int(state.step) <= config.stop_at,
        f"--stop_at is {config.stop_at}, and {folder} is at step {int(state.step)} "
        "already",
    )
    say(_first_lines(config, dataset, tokens, state))
    prefix, tokens = prompt_computed(frozen.llama, tokens, config.strategy, dtype)
    step = job.step(optimizer)
    batches = TrainingBatches(dataset, _batch_config(config), tokens)
    ranker = make_ranker(recipe.seq_len, dtype, put, tokens, prefix)
    asked = of_some_users(dataset, flags.eval_users)
    state = train(
        config, state, frozen, step, step_key, dataset=asked, batches=batches,
        ranker=ranker, saver=saver, meta=meta, put=put, stored=stored,
        active_lists=None if flags.item_optimizer == "dense" else lists,
        cold=None if known is None else put(ColdItems.of(dataset, known)),
        prefix=prefix,
    )  # fmt: skip
    if int(state.step) == config.stop_at < recipe.num_steps:
        return None
    del state
    best, params = restore_sound(
        folder, best_step, like.params, stored.params, warn, "params"
    )
    return evaluate(eqx.combine(params, frozen), asked, "test", ranker), best


def _dataset(config: RunConfig) -> Dataset:
    """Opens the dataset; the default one is prepared first where it is not there."""
    path = config.flags.data_dir
    if path is None:
        if is_first() and not DEFAULT_DATA.exists():
            prepare(PrepareConfig(data_dir=DEFAULT_DATA), say)
        barrier("the dataset is prepared")
    dataset = open_dataset(path or DEFAULT_DATA)
    require(
        bool(dataset.item_counts[dataset.item_valid].any()),
        f"all items in training events of {dataset.path} are retired, wanted some to "
        "learn from; bring retired ones back: python -m eqids.catalog add --data_dir "
        f"{dataset.path} --items FILE",
    )
    return dataset


def _check_moved(config: RunConfig) -> None:
    """Raises UserError where the run's dataset or Llama is no longer where it was."""
    found = newest_of(config.checkpoint_dir)
    if found is None:
        return
    if config.flags.data_dir is not None and config.data_dir == found.config.data_dir:
        check_dataset_there(found.path, config)
    llama = config.flags.llama_path
    was = found.config.flags.llama_path
    if llama is not None and was is not None and same_path(llama, was):
        check_llama_there(found.path, llama)


def _with_llama(config: RunConfig) -> RunConfig:
    """Returns the run with the folder of its Llama, fetched from the hub if need be."""
    flags = config.flags
    if flags.estimate_memory_only:
        return config
    if flags.llama_path is not None:
        convert.check_llama(flags.llama_path)  # before its tokenizer is looked for
    if not wants_hub(flags):
        return config
    path = fetch_llama(flags.llama_size, say).absolute()
    return dataclasses.replace(
        config, flags=dataclasses.replace(flags, llama_path=path)
    )


def _llama_config(flags: TrainConfig, tokens: ItemTokens | None) -> LlamaConfig:
    """Returns the Llama's sizes; one from scratch learns all words of its tokenizer."""
    if flags.llama_path is None:
        preset = LLAMA_PRESETS[flags.llama_size]
        vocab = 0 if tokens is None else tokens.vocab
        return dataclasses.replace(preset, vocab=max(preset.vocab, vocab))
    found = convert.read_config(flags.llama_path)
    asked, has = other_sizes(LLAMA_PRESETS[flags.llama_size], found)
    require(
        flags.llama_size == "nano" or not has,
        f"{flags.llama_path} is not a Llama of --llama_size {flags.llama_size}: it has "
        f"{has}, wanted {asked}; give the folder of one, or no --llama_size",
    )
    if tokens is not None:
        check_vocab(tokens, found)
    return found


def _pretrained(config: RunConfig, put: Placement) -> tuple[Llama | None, str | None]:
    """Returns the pretrained Llama and its fingerprint, or nothing from scratch."""
    path = config.flags.llama_path
    if path is None:
        return None, None
    say(f"loading {path}")
    dtype = "float32" if config.strategy == "all" else config.dtype
    llama = convert.load_llama(path, dtype, put, head=False)
    return llama, convert.fingerprint(path)


def _batch_config(config: RunConfig) -> BatchConfig:
    flags, recipe = config.flags, config.recipe
    return BatchConfig(
        seq_len=recipe.seq_len,
        batch_size=recipe.batch_size,
        seed=flags.seed,
        gap_dropout=flags.gap_dropout,
        shuffle_ties=flags.shuffle_ties,
    )


def _first_lines(
    config: RunConfig, dataset: Dataset, tokens: ItemTokens | None, state: State
) -> str:
    items = config.flags.item_optimizer
    learns = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    info, recipe, step = dataset.info, config.recipe, int(state.step)
    lines = [
        f"{info.num_users:,} users, {info.num_items:,} items in {info.num_clusters:,} "
        f"clusters, {info.num_events:,} events ({dataset.path})",
        f"{config.strategy}: {learns:,} parameters train; {recipe.num_steps:,} steps "
        f"of {recipe.batch_size} x {recipe.seq_len} into {config.checkpoint_dir}",
    ]
    if tokens is not None:
        lines.append(
            f"words: {len(tokens.prompt)} open a history, then at most "
            f"{tokens.per_item} an item, {tokens.length[dataset.slots].mean():.1f} on "
            "average"
        )
    if jax.process_count() > 1:
        lines.append(
            f"{jax.process_count()} processes with {jax.device_count()} devices; if "
            f"one ends, the others do within {config.flags.processes.heartbeat} s"
        )
    if items != "dense":
        lines.append(f"item tables move by {items}, in the clusters of each batch")
    if step:
        lines.append(f"going on from step {step}, found in {config.checkpoint_dir}")
    return "\n".join(lines)


def _closing(folder: Path, dataset: Dataset) -> str:
    user = shell_word(str(dataset.users()["user"].iloc[0]))
    return (
        f"result in {folder / RESULT_FILE}; now ask for recommendations:\n"
        f"  python -m eqids.recommend --checkpoint {folder} --user {user}"
    )
