"""From a checkpoint's path to a model in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import convert
from eqids.config import ModelConfig, RunConfig, from_json, require
from eqids.data import Dataset, open_dataset
from eqids.data.words import Words
from eqids.fit.checkpoint import Manifest, read_manifest, resolve, restore
from eqids.fit.runs import check_catalog, initial_model, run_keys
from eqids.fit.step import split
from eqids.fit.strategy import trainable
from eqids.fit.words import check_words, words_again
from eqids.model import EqIDs, Llama
from sharding import Placement


@dataclass(frozen=True)
class Opened:
    """A checkpoint, read.

    Attributes:
        path: the checkpoint's folder, DIR/STEP.
        manifest: what it says of itself.
        config: of the run that made it.
        dataset: the catalog and histories it is used with.
        model: the whole model, placed.
        words: beside its items, or none.
    """

    path: Path
    manifest: Manifest
    config: RunConfig
    dataset: Dataset
    model: EqIDs
    words: Words | None = None

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that Llama computes in."""
        return jnp.dtype(self.config.dtype)


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
    dataset = open_dataset(data_dir or config.data_dir)
    check_catalog(path, manifest.meta, dataset)
    words = words_again(path, config, dataset, tokenizer, llama_path)
    if words is not None:
        check_words(path, config, dataset, words)

    def stored(like: EqIDs, shapes: EqIDs) -> EqIDs:
        return restore(path, like, "params", shapes)

    model = assemble(path, manifest.meta, stored, dataset, llama_path, put)
    return Opened(path, manifest, config, dataset, model, words)


def assemble(
    path: Path,
    meta: Mapping[str, Any],
    params_of: Callable[[EqIDs, EqIDs], EqIDs],
    dataset: Dataset,
    llama_path: Path | None,
    put: Placement,
) -> EqIDs:
    """Returns the whole model of a checkpoint, placed.

    Args:
        path: the checkpoint, for messages.
        meta: what it says of itself.
        params_of: returns what was trained, given its structure in its places, and
            as it is stored (clusters that make a mesh divide are not).
        dataset: with the catalog that it was trained on.
        llama_path: the Llama's folder, by default the one of the run.
        put: where the model goes.

    Raises:
        UserError: another Llama than it was trained with.
    """
    config = from_json(RunConfig, meta["config"], f"{path}: config")
    sizes = from_json(ModelConfig, meta["model"], f"{path}: model")
    abstract = eqx.filter_eval_shape(EqIDs, sizes, key=jax.random.key(0))
    learnt = trainable(abstract, config.strategy)
    params = params_of(eqx.filter(put(abstract), learnt), eqx.filter(abstract, learnt))
    if config.strategy == "all":
        valid = jnp.asarray(dataset.item_valid)
        rest = eqx.filter(abstract, trainable(abstract, "all"), inverse=True)
        rest = eqx.tree_at(lambda m: m.softmax.valid, rest, valid)
    else:
        folder = llama_path or config.flags.llama_path
        llama = frozen_llama(meta["base"], folder, config.dtype, put)
        require(
            llama is None or llama.config == sizes.llama,
            f"{folder}/config.json is not the one that {path} was trained with, which "
            f"said {sizes.llama}",
        )
        key, _ = run_keys(config.flags.seed)
        whole = initial_model(sizes, dataset, llama, key)
        _, rest = split(whole, config.strategy, jnp.dtype(config.dtype))
    return eqx.combine(params, put(rest))


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


def check_base(base: str, path: Path | None) -> Path:
    """Returns the folder of the Llama that a checkpoint was trained over.

    Args:
        base: the fingerprint of its files.
        path: where it may be.

    Raises:
        UserError: there is no path, or its folder holds other weights.
    """
    require(path is not None, "the checkpoint needs its Llama: add --llama_path DIR")
    assert path is not None
    found = convert.fingerprint(path)
    require(
        found == base,
        f"{path} holds other weights (fingerprint {found}) than the checkpoint was "
        f"trained over ({base}), see --llama_path",
    )
    return path
