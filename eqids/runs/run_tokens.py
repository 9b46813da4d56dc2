"""The tokens of items' texts in a run: as its flags say, or as a checkpoint records."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from eqids.cli import say
from eqids.config import LlamaConfig, RunConfig, Strategy, TrainConfig, require
from eqids.data import Dataset
from eqids.data.batches.item_texts import tokenizer_file, tokens_of
from eqids.data.batches.tokens import ItemTokens
from eqids.data.files import ITEMS_FILE
from eqids.io.digests import file_sha256
from eqids.model import Llama, PrefixCache
from eqids.runs.recorded_folders import llama_of_run

say_once = functools.cache(say)
"""Prints a message only the first time: a run may read texts for two purposes."""

_prefix_cache = jax.jit(Llama.prefix_cache, static_argnums=2)


def requested_tokens(
    flags: TrainConfig, dataset: Dataset, report: Callable[[str], None]
) -> ItemTokens | None:
    """Returns the tokens of a dataset's texts if the flags of a run read text.

    Raises:
        UserError: no tokenizer exists, or no item has a text.
    """
    if not flags.reads_text:
        return None
    path = tokenizer_file(flags.tokenizer, flags.llama_path)
    prompt, per_item = flags.prompt or "", flags.text_tokens_per_item
    return tokens_of(dataset, path, prompt, per_item, report)


def recorded_tokens(
    checkpoint: Path,
    config: RunConfig,
    dataset: Dataset,
    tokenizer: Path | None = None,
    llama_path: Path | None = None,
) -> ItemTokens | None:
    """Returns the tokens of texts that a checkpoint was trained with, if any.

    Args:
        checkpoint: the checkpoint's path, for messages.
        config: the config of its run.
        dataset: the dataset of the items, with any version of the catalog.
        tokenizer: the tokenizer's file, by default where the run found it.
        llama_path: the Llama's folder, by default the one of the run.

    Raises:
        UserError: the tokenizer does not exist, or is another than the run's.
    """
    if config.tokens is None:
        return None
    flags = config.flags
    if tokenizer is None and flags.tokenizer is not None:
        tokenizer = flags.tokenizer
        require(
            tokenizer.exists(),
            f"{checkpoint} was trained with the tokenizer {tokenizer}, which no longer "
            "exists: add --tokenizer FILE",
        )
    if tokenizer is None:
        llama_path = llama_of_run(checkpoint, config, llama_path)
    path = tokenizer_file(tokenizer, llama_path)
    found = file_sha256(path)
    require(
        found == config.tokens.tokenizer,
        f"{path} is another tokenizer (its sha256 is {found}) than the one that "
        f"{checkpoint} was trained with ({config.tokens.tokenizer}), see --tokenizer",
    )
    prompt, per_item = flags.prompt or "", flags.text_tokens_per_item
    return tokens_of(dataset, path, prompt, per_item, lambda sentence: None)


def prefix_length(tokens: ItemTokens | None, strategy: Strategy) -> int:
    """Returns the positions of the prompt that `prompt_computed` computes."""
    return 0 if tokens is None or strategy != "heads" else len(tokens.prompt)


def prompt_computed(
    llama: Llama, tokens: ItemTokens | None, strategy: Strategy, dtype: DTypeLike
) -> tuple[PrefixCache | None, ItemTokens | None]:
    """Computes the prompt once if Llama is frozen, and removes it from the rows.

    Args:
        llama: placed on its devices; if it is not frozen, it is not read.
        tokens: the tokens of the items' texts, or none.
        strategy: which weights train, or trained.
        dtype: the dtype of Llama's computation.

    Returns:
        The prompt's keys and values, and tokens without it; or None and the same
        tokens, if Llama trains or there is no prompt.
    """
    if tokens is None or prefix_length(tokens, strategy) == 0:
        return None, tokens
    prefix = _prefix_cache(llama, jnp.asarray(tokens.prompt), jnp.dtype(dtype))
    return prefix, replace(tokens, prompt=tokens.prompt[:0])


def check_tokens(
    checkpoint: Path, config: RunConfig, dataset: Dataset, tokens: ItemTokens
) -> None:
    """Raises UserError if items have other texts than a checkpoint was trained with.

    Args:
        checkpoint: the checkpoint's path, for messages.
        config: the config of its run.
        dataset: a dataset with the same catalog.
        tokens: the tokens of its items.
    """
    require(
        tokens.config == config.tokens,
        f"{checkpoint} was trained with other texts of items than {dataset.path}/"
        f"{ITEMS_FILE} has; wanted the same, see --text of eqids.prepare",
    )


def check_reads_alike(
    path: Path,
    config: RunConfig,
    flags: TrainConfig,
    dataset: Dataset,
    tokens: ItemTokens | None,
) -> str | None:
    """Requires that a run has the tokenizer of the run whose weights it starts from.

    Args:
        path: the path of these weights, for messages.
        config: the config of the run that made them.
        flags: the flags of the new run.
        dataset: the dataset of the new run.
        tokens: the tokens of the new run, or none.

    Returns:
        A warning if the items have other texts now; otherwise None.

    Raises:
        UserError: the run has another tokenizer.
    """
    was = config.tokens
    if was is None or tokens is None:
        return None
    require(
        tokens.config.tokenizer == was.tokenizer,
        f"{path} was trained with another tokenizer than this run has; wanted "
        " the same tokenizer.json, see --tokenizer",
    )
    old, new = ((f.prompt or "", f.text_tokens_per_item) for f in (config.flags, flags))
    if old != new or tokens.config == was:
        return None
    return (
        f"{dataset.path / ITEMS_FILE} has other texts of items than {path} was trained "
        "with; this run reads the new ones"
    )


def check_vocab(tokens: ItemTokens, llama: LlamaConfig) -> None:
    """Raises UserError if a Llama's vocabulary lacks a token of the tokenizer."""
    require(
        tokens.vocab_used <= llama.vocab,
        f"the tokenizer gives token {tokens.vocab_used - 1}, and the Llama has "
        f"{llama.vocab}; wanted the Llama's own tokenizer, see --tokenizer",
    )
