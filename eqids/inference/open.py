"""From a path to a model in memory: a checkpoint's, or that of a pair of files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import convert
from convert.hf_eqids import Pair, check_pair, load_pair, read_pair
from convert.hub import REPOSITORIES, fetch_llama
from eqids.checkpoints import read_manifest, resolve, restore
from eqids.config import (
    ModelConfig,
    OpenConfig,
    RunConfig,
    Strategy,
    from_json,
    require,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.data.batches.tokens import ItemTokens
from eqids.fit.step import split
from eqids.fit.strategy import trainable
from eqids.model import EqIDs, Llama, PrefixCache
from eqids.runs.identity import (
    check_catalog,
    check_dataset_there,
    check_llama_there,
    initial_model,
    run_keys,
)
from eqids.runs.run_tokens import check_tokens, prompt_computed, recorded_tokens
from eqids.runs.same_sizes import other_sizes
from sharding import Placement


@dataclass(frozen=True)
class Opened:
    """A trained model, read.

    Attributes:
        path: the folder of the checkpoint, DIR/STEP, or of the pair.
        step: of its training.
        config: of the run that made it.
        dataset: the catalog and histories it is used with.
        model: the whole model, placed.
        tokens: beside its items, or none.
    """

    path: Path
    step: int
    config: RunConfig
    dataset: Dataset
    model: EqIDs
    tokens: ItemTokens | None = None
    prefix: PrefixCache | None = None

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that Llama computes in."""
        return jnp.dtype(self.config.dtype)


def open_model(config: OpenConfig, put: Placement) -> Opened:
    """Opens the checkpoint or the pair that a command's flags name.

    Args:
        config: the door's.
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


def open_checkpoint(
    checkpoint: Path,
    data_dir: Path | None,
    llama_path: Path | None,
    put: Placement,
    tokenizer: Path | None = None,
) -> Opened:
    """Opens a checkpoint with its dataset and, if Llama was frozen, its Llama.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the Llama's folder, by default the one of the run.
        put: where the model goes.
        tokenizer: the file of the tokenizer, by default the one of the run; it is
            only looked at where the run has words.

    Raises:
        UserError: no such checkpoint, a damaged one, another catalog, other words or
            another Llama than it was trained with.
    """
    path = resolve(checkpoint)
    manifest = read_manifest(path)
    config = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, config, data_dir)
    check_catalog(path, manifest.meta, dataset)
    if manifest.meta["base"] is not None and config.strategy != "all":
        # Before its tokenizer is looked for.
        check_base_there(llama_of(path, config, llama_path))
    tokens = tokens_of_run(path, config, dataset, tokenizer, llama_path)
    if tokens is not None:
        check_tokens(path, config, dataset, tokens)

    def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
        return restore(path, like, "params", shapes)

    model = assemble(path, manifest.meta, params, dataset, llama_path, put)
    dtype = jnp.dtype(config.dtype)
    prefix, tokens = prompt_computed(model.llama, tokens, config.strategy, dtype)
    return Opened(path, manifest.step, config, dataset, model, tokens, prefix)


def open_pair(
    folder: Path, data_dir: Path | None, put: Placement, tokenizer: Path | None = None
) -> Opened:
    """Opens what `eqids-to-hf` wrote of a checkpoint, with its dataset.

    Args:
        folder: of Hugging Face, with eqids.safetensors and eqids.json in it.
        data_dir: the dataset folder, by default the one of the run.
        put: where the model goes.
        tokenizer: the file of the tokenizer, by default the one in the folder, or else
            the one of the run; it is only looked at where the run has words.

    Raises:
        UserError: no such folder, a file of another one in it, another catalog or
            other words, or a tensor that is not what it should be.
    """
    pair = read_pair(folder)
    config, beside = pair.config, folder / TOKENIZER_FILE
    dataset = dataset_of(folder, config, data_dir)
    check_pair_catalog(pair, dataset)
    if tokenizer is None and beside.is_file():
        tokenizer = beside
    tokens = tokens_of_run(folder, config, dataset, tokenizer, folder)
    if tokens is not None:
        check_tokens(folder, config, dataset, tokens)
    check_pair(pair)

    def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
        return load_pair(pair, shapes, put)

    model = assemble(folder, pair.meta, params, dataset, None, put, "all")
    dtype = jnp.dtype(config.dtype)
    prefix, tokens = prompt_computed(model.llama, tokens, config.strategy, dtype)
    return Opened(folder, pair.step, config, dataset, model, tokens, prefix)


def dataset_of(path: Path, config: RunConfig, data_dir: Path | None = None) -> Dataset:
    """Opens the dataset that a model is used with.

    Args:
        path: of the checkpoint or the pair, for messages.
        config: of its run.
        data_dir: the folder, by default the one of the run.

    Raises:
        UserError: the run's is not there any more; see `open_dataset` too.
    """
    if data_dir is None:
        check_dataset_there(path, config)
    return open_dataset(data_dir or config.data_dir)


def check_pair_catalog(pair: Pair, dataset: Dataset) -> None:
    """Raises UserError where a pair knows other items than a dataset."""
    require(
        pair.meta["catalog_id"] not in dataset.lineage.catalog_ids,
        f"{pair.folder} was trained on an earlier version of the catalog of "
        f"{dataset.path}; bring its checkpoint along (python -m eqids.catalog migrate) "
        "and write it anew (python -m convert eqids-to-hf)",
    )
    check_catalog(pair.folder, pair.meta, dataset)


def tokens_of_run(
    path: Path,
    config: RunConfig,
    dataset: Dataset,
    tokenizer: Path | None = None,
    llama_path: Path | None = None,
) -> ItemTokens | None:
    """Returns the words that a model was trained with, if any; see `words_again`."""
    if config.tokens is None:
        return None
    if tokenizer is None and config.flags.tokenizer is None:
        llama_path = llama_of(path, config, llama_path)
    return recorded_tokens(path, config, dataset, tokenizer, llama_path)


def assemble(
    path: Path,
    meta: Mapping[str, Any],
    params_of: Callable[[EqIDs, EqIDs], EqIDs],
    dataset: Dataset,
    llama_path: Path | None,
    put: Placement,
    strategy: Strategy | None = None,
) -> EqIDs:
    """Returns the whole model of a checkpoint or a pair, placed.

    Args:
        path: the checkpoint or the pair, for messages.
        meta: what it says of itself.
        params_of: returns what is stored, given its structure in its places, and as
            it is stored (clusters that make a mesh divide are not).
        dataset: with the catalog that it was trained on.
        llama_path: the Llama's folder, by default the one of the run.
        put: where the model goes.
        strategy: the one whose arrays are stored, by default the run's.

    Raises:
        UserError: another Llama than it was trained with.
    """
    config = from_json(RunConfig, meta["config"], f"{path}: config")
    sizes = from_json(ModelConfig, meta["model"], f"{path}: model")
    abstract = eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0))
    strategy = strategy or config.strategy
    learnt = trainable(abstract, strategy)
    params = params_of(eqx.filter(put(abstract), learnt), eqx.filter(abstract, learnt))
    if strategy == "all":
        valid = jnp.asarray(dataset.item_valid)
        rest = eqx.filter(abstract, trainable(abstract, "all"), inverse=True)
        rest = eqx.tree_at(lambda m: m.softmax.valid, rest, valid)
    else:
        folder = llama_of(path, config, llama_path)
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


def llama_of(
    path: Path, config: RunConfig, llama_path: Path | None = None
) -> Path | None:
    """Returns the folder of a model's Llama; see `llama_folder`.

    Args:
        path: of the checkpoint or the pair, for messages.
        config: of its run.
        llama_path: the folder, by default where the run found it.

    Raises:
        UserError: the run's is not there any more.
    """
    folder = llama_folder(config, llama_path)
    if llama_path is None and folder is not None:
        check_llama_there(path, folder)
    return folder


def llama_folder(config: RunConfig, llama_path: Path | None = None) -> Path | None:
    """Returns the folder of a run's Llama.

    One that came from the hub is looked for there again, where its cache lost it.

    Args:
        config: the run's.
        llama_path: the folder, by default where the run found it.

    Raises:
        UserError: the hub cannot be reached, or refuses; see `fetch_llama`.
    """
    flags = config.flags
    folder = llama_path or flags.llama_path
    if folder is None or folder.exists():
        return folder
    published = REPOSITORIES.get(flags.llama_size)
    # The cache calls a folder by its revision; others are the user's own.
    if published is None or folder.name != published.revision:
        return folder
    return fetch_llama(flags.llama_size)


def frozen_llama(
    base: str | None, path: Path | None, dtype: str, put: Placement
) -> Llama | None:
    """Returns the Llama that a checkpoint was trained over; None if it was random.

    Args:
        base: the fingerprint of its files.
        path: its folder.
        dtype: what its weights are cast to.
        put: where they go.

    Raises:
        UserError: the folder holds other weights than `base`, their fingerprint.
    """
    if base is None:
        return None
    return convert.load_llama(check_base(base, path), dtype, put, head=False)


def check_base_there(path: Path | None) -> Path:
    """Returns the folder of the Llama that a checkpoint was trained over.

    Args:
        path: where it may be.

    Raises:
        UserError: there is no path, or no Llama in its folder.
    """
    require(path is not None, "the checkpoint needs its Llama: add --llama_path DIR")
    assert path is not None
    require(
        path.exists(),
        f"{path} has no model.safetensors, for there is no such folder: add "
        "--llama_path DIR, where the Llama of the checkpoint is now",
    )
    convert.check_llama(path)
    return path


def check_base(base: str, path: Path | None) -> Path:
    """Returns the folder of the Llama that a checkpoint was trained over.

    Args:
        base: the fingerprint of its files.
        path: where it may be.

    Raises:
        UserError: there is no path, or its folder holds other weights.
    """
    path = check_base_there(path)
    found = convert.fingerprint(path)
    require(
        found == base,
        f"{path} holds other weights than the checkpoint was trained over; wanted the "
        "same files, see --llama_path",
    )
    return path
