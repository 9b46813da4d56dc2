"""The words beside a run's items: as its flags want them, and as it was trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from eqids.config import LlamaConfig, RunConfig, Strategy, TrainConfig, require
from eqids.data import Dataset
from eqids.data.files import ITEMS_FILE, file_sha256
from eqids.data.batches.item_texts import tokenizer_file, words_of
from eqids.data.batches.tokens import Words
from eqids.model import EqIDs, Llama

_opening = jax.jit(Llama.opening, static_argnums=2)


def words_asked(
    flags: TrainConfig, dataset: Dataset, report: Callable[[str], None]
) -> Words | None:
    """Returns the words that flags ask for beside a dataset's items, if they do.

    Raises:
        UserError: there is no tokenizer, or no item has a text.
    """
    if not flags.reads_words:
        return None
    path = tokenizer_file(flags.tokenizer, flags.llama_path)
    prompt, per_item = flags.prompt or "", flags.text_tokens_per_item
    return words_of(dataset, path, prompt, per_item, report)


def words_again(
    checkpoint: Path,
    config: RunConfig,
    dataset: Dataset,
    tokenizer: Path | None = None,
    llama_path: Path | None = None,
) -> Words | None:
    """Returns the words beside items that a checkpoint was trained with, if any.

    Args:
        checkpoint: for messages.
        config: of its run.
        dataset: whose items, of any version of the catalog.
        tokenizer: its file, by default where the run found it.
        llama_path: the Llama's folder, by default the one of the run.

    Raises:
        UserError: the tokenizer is not there, or is another one.
    """
    if config.words is None:
        return None
    flags = config.flags
    if tokenizer is None and flags.tokenizer is not None:
        tokenizer = flags.tokenizer
        require(
            tokenizer.exists(),
            f"{checkpoint} was trained with words split by {tokenizer}, which is not "
            "there: add --tokenizer FILE",
        )
    path = tokenizer_file(tokenizer, llama_path or flags.llama_path)
    found = file_sha256(path)
    require(
        found == config.words.tokenizer,
        f"{path} is another tokenizer (its sha256 is {found}) than the one that "
        f"{checkpoint} was trained with ({config.words.tokenizer}), see --tokenizer",
    )
    prompt, per_item = flags.prompt or "", flags.text_tokens_per_item
    return words_of(dataset, path, prompt, per_item, lambda sentence: None)


def opening_length(words: Words | None, strategy: Strategy) -> int:
    """Returns the positions of the prompt that `prompt_computed` computes."""
    return 0 if words is None or strategy != "heads" else len(words.prompt)


def prompt_computed(
    frozen: EqIDs, words: Words | None, strategy: Strategy, dtype: DTypeLike
) -> tuple[EqIDs, Words | None]:
    """Computes the prompt once where Llama is frozen, and takes it out of the rows.

    Args:
        frozen: the frozen part of a model or all of it, where it is used.
        words: beside the items, or none.
        strategy: what trains, or trained.
        dtype: of Llama's computation.

    Returns:
        What is frozen, with the opening of every sequence, and the words of rows; or
        both as they are, where Llama trains or there is no prompt.
    """
    if words is None or opening_length(words, strategy) == 0:
        return frozen, words
    prompt = jnp.asarray(words.prompt)
    opening = _opening(frozen.llama, prompt, jnp.dtype(dtype))
    opened = eqx.tree_at(
        lambda m: m.opening, frozen, opening, is_leaf=lambda x: x is None
    )
    return opened, replace(words, prompt=words.prompt[:0])


def check_words(
    checkpoint: Path, config: RunConfig, dataset: Dataset, words: Words
) -> None:
    """Raises UserError where items have other words than a checkpoint was trained with.

    Args:
        checkpoint: for messages.
        config: of its run.
        dataset: with the same catalog.
        words: of its items.
    """
    require(
        words.config == config.words,
        f"{checkpoint} was trained with other texts of items than {dataset.path}/"
        f"{ITEMS_FILE} has; wanted the same, see --text of eqids.prepare",
    )


def check_reads_alike(
    path: Path,
    config: RunConfig,
    flags: TrainConfig,
    dataset: Dataset,
    words: Words | None,
) -> str | None:
    """Requires that a run splits texts as the one did whose weights it starts from.

    Args:
        path: of these weights, for messages.
        config: of the run that made them.
        flags: of the new run.
        dataset: of the new run.
        words: of the new run, or none.

    Returns:
        What to report: that the items have other texts by now; or None.

    Raises:
        UserError: they were split by another tokenizer.
    """
    was = config.words
    if was is None or words is None:
        return None
    require(
        words.config.tokenizer == was.tokenizer,
        f"{path} was trained with words split by another tokenizer than this run has; "
        "wanted the same tokenizer.json, see --tokenizer",
    )
    asked = [(f.prompt or "", f.text_tokens_per_item) for f in (config.flags, flags)]
    if asked[0] != asked[1] or words.config == was:
        return None
    return (
        f"{dataset.path / ITEMS_FILE} has other texts of items than {path} was trained "
        "with; this run reads the new ones"
    )


def check_vocab(words: Words, llama: LlamaConfig) -> None:
    """Raises UserError where a Llama does not know the tokens of some words."""
    require(
        words.vocab_used <= llama.vocab,
        f"the tokenizer gives token {words.vocab_used - 1}, and the Llama knows "
        f"{llama.vocab}; wanted the Llama's own tokenizer, see --tokenizer",
    )
