"""Opens a model by its path: a checkpoint, or a folder that eqids-to-hf wrote."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from convert.hf_eqids import check_pair, is_pair, load_pair, read_pair
from eqids.checkpoints import read_manifest, resolve, restore
from eqids.cli import waiting
from eqids.config import OpenConfig, RunConfig, from_json
from eqids.data import Dataset
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.data.batches.tokens import ItemTokens
from eqids.fit.evaluation import of_some_users
from eqids.fit.results import Validated
from eqids.model import EqIDs, PrefixCache
from eqids.runs.assemble import assemble
from eqids.runs.frozen_llama import check_llama_folder
from eqids.runs.recorded_folders import dataset_of, llama_of_run
from eqids.runs.run_tokens import check_tokens, prompt_computed, recorded_tokens
from eqids.runs.same_catalog import check_catalog, check_pair_catalog
from sharding import Placement


@dataclass(frozen=True)
class Opened:
    """A trained model in memory, with all that is needed to use it.

    Attributes:
        path: the folder of the checkpoint, DIR/STEP, or of the pair.
        step: the training step.
        config: of the run that trained it.
        dataset: its catalog and histories.
        model: the whole model, placed on its devices.
        tokens: of the items' texts, or None for a model without text.
        prefix: the keys and values of its prompt, if the tokens lack the prompt.
        score: its NDCG@10 on validation, if the run measured it on this dataset.
    """

    path: Path
    step: int
    config: RunConfig
    dataset: Dataset
    model: EqIDs
    tokens: ItemTokens | None = None
    prefix: PrefixCache | None = None
    score: float | None = None

    @property
    def validated(self) -> Validated | None:
        """The score with the users that it was measured on, if it is known."""
        if self.score is None:
            return None
        users = self.config.recipe.eval_users or None
        return Validated(of_some_users(self.dataset, users), self.score)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that Llama computes in."""
        return jnp.dtype(self.config.dtype)


def open_model(config: OpenConfig, put: Placement) -> Opened:
    """Opens the checkpoint or the pair that a command's flags name.

    Args:
        config: the command's flags.
        put: where the model goes.

    Raises:
        UserError: see `open_checkpoint` and `open_pair`.
    """
    if config.init_from is not None:
        return open_pair(config.init_from, config.data_dir, put, config.tokenizer)
    assert config.checkpoint is not None
    return open_checkpoint(
        config.checkpoint, config.data_dir, config.llama_path, put, config.tokenizer
    )


def open_path(
    path: Path,
    data_dir: Path | None,
    llama_path: Path | None,
    put: Placement,
    tokenizer: Path | None = None,
) -> Opened:
    """Opens a checkpoint, a run or a pair, whichever the path is.

    Args:
        path: the checkpoint, the run or the pair.
        data_dir: see `open_checkpoint`.
        llama_path: see `open_checkpoint`; a pair holds its own Llama.
        put: where the model goes.
        tokenizer: see `open_checkpoint` and `open_pair`.

    Raises:
        UserError: see `open_checkpoint` and `open_pair`.
    """
    if is_pair(path):
        return open_pair(path, data_dir, put, tokenizer)
    return open_checkpoint(path, data_dir, llama_path, put, tokenizer)


def dataset_of_path(path: Path, data_dir: Path | None) -> Dataset:
    """Opens the dataset of a checkpoint, a run or a pair, and none of its weights.

    Args:
        path: see `open_path`.
        data_dir: see `open_checkpoint`.

    Raises:
        UserError: there is no such model, or its dataset is missing.
    """
    if is_pair(path):
        return dataset_of(path, read_pair(path).config, data_dir)
    step = resolve(path)
    meta = read_manifest(step).meta
    config = from_json(RunConfig, meta["config"], f"{step}: config")
    return dataset_of(step, config, data_dir)


def open_checkpoint(
    checkpoint: Path,
    data_dir: Path | None,
    llama_path: Path | None,
    put: Placement,
    tokenizer: Path | None = None,
) -> Opened:
    """Opens a checkpoint with its dataset and, if its Llama was frozen, the Llama.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the Llama's folder, by default the one of the run.
        put: where the model goes.
        tokenizer: the tokenizer.json, by default the one of the run; only read if the
            run has text.

    Raises:
        UserError: there is no such checkpoint or it is damaged, or it was trained with
            another catalog, other texts or another Llama.
    """
    path = resolve(checkpoint)
    manifest = read_manifest(path)
    config = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, config, data_dir)
    check_catalog(path, manifest.meta, dataset)
    if manifest.meta["base"] is not None and config.strategy != "all":
        # A missing Llama is reported before its missing tokenizer.
        check_llama_folder(llama_of_run(path, config, llama_path))
    tokens = recorded_tokens(path, config, dataset, tokenizer, llama_path)
    if tokens is not None:
        check_tokens(path, config, dataset, tokens)

    def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
        return restore(path, like, "params", shapes)

    with waiting(f"loading {path}"):
        model = assemble(path, manifest.meta, params, dataset, llama_path, put)
    dtype = jnp.dtype(config.dtype)
    prefix, tokens = prompt_computed(model.llama, tokens, config.strategy, dtype)
    score = _score(manifest.meta, dataset)
    return Opened(path, manifest.step, config, dataset, model, tokens, prefix, score)


def open_pair(
    folder: Path, data_dir: Path | None, put: Placement, tokenizer: Path | None = None
) -> Opened:
    """Opens a folder that `eqids-to-hf` wrote, with its dataset.

    Args:
        folder: of Hugging Face, with eqids.safetensors and eqids.json in it.
        data_dir: the dataset folder, by default the one of the run.
        put: where the model goes.
        tokenizer: the tokenizer.json, by default the one in the folder, or else the
            one of the run; only read if the run has text.

    Raises:
        UserError: there is no such folder, one of its files belongs to another, a
            tensor is wrong, or the dataset has another catalog or other texts.
    """
    pair = read_pair(folder)
    config, beside = pair.config, folder / TOKENIZER_FILE
    dataset = dataset_of(folder, config, data_dir)
    check_pair_catalog(pair, dataset)
    if tokenizer is None and beside.is_file():
        tokenizer = beside
    tokens = recorded_tokens(folder, config, dataset, tokenizer, folder)
    if tokens is not None:
        check_tokens(folder, config, dataset, tokens)
    check_pair(pair)

    def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
        return load_pair(pair, shapes, put)

    with waiting(f"loading {folder}"):
        model = assemble(folder, pair.meta, params, dataset, None, put, "all")
    dtype = jnp.dtype(config.dtype)
    prefix, tokens = prompt_computed(model.llama, tokens, config.strategy, dtype)
    score = _score(pair.meta, dataset)
    return Opened(folder, pair.step, config, dataset, model, tokens, prefix, score)


def _score(meta: Mapping[str, Any], dataset: Dataset) -> float | None:
    """The recorded NDCG@10 on validation, if it was measured on this dataset."""
    same, score = meta["dataset_hash"] == dataset.info.dataset_hash, meta.get("score")
    return score if same and isinstance(score, float) else None
