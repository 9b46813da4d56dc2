"""A trained model as its files hold it: arrays are read when they are written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from convert.hf_eqids import TENSORS_FILE, check_pair, is_pair, read_pair
from convert.hf_files import safetensors_slices, tensors
from convert.hf_write import arrays_of, llama_weights, of_slice
from convert.names import tensors_of
from convert.outputs import FLOATS, Weight
from eqids.checkpoints import leaf_name, read_manifest, resolve
from eqids.checkpoints.reader import Reader
from eqids.config import ModelConfig, ProgramsConfig, RunConfig, from_json
from eqids.data import Dataset
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.data.batches.tokens import ItemTokens
from eqids.export.checkpoint_llama import llama_of_checkpoint, sizes_of_checkpoint
from eqids.export.trained_arrays import LLAMA, TrainedArrays
from eqids.inference.open import Opened
from eqids.runs.new_model import sizes_for
from eqids.runs.recorded_folders import dataset_of
from eqids.runs.run_tokens import check_tokens, recorded_tokens
from eqids.runs.same_catalog import check_catalog, check_pair_catalog

_LLAMA = "llama/"


@dataclass(frozen=True)
class StoredModel:
    """A trained model whose arrays are still in files.

    Attributes:
        path: the folder of the checkpoint, DIR/STEP, or of the pair.
        step: the training step.
        config: of the run that trained it.
        sizes: the model's sizes.
        dataset: its catalog and histories.
        tokens: of the items' texts, prompt included, or None for a model without text.
        llama: the tensors of its Llama by their names of Hugging Face, LoRA merged.
        beside: all other arrays that were trained, by their names in safetensors, such
            as "eqids.softmax.table".
    """

    path: Path
    step: int
    config: RunConfig
    sizes: ModelConfig
    dataset: Dataset
    tokens: ItemTokens | None
    llama: Mapping[str, Weight]
    beside: Mapping[str, Weight]


@contextmanager
def stored_model(config: ProgramsConfig) -> Iterator[StoredModel]:
    """Opens the files of a checkpoint, a run or a pair, without reading its arrays.

    Args:
        config: names the input, and where its dataset, Llama and tokenizer are now.

    Raises:
        UserError: see `eqids.inference.open.open_path`.
    """
    of_kind = _pair if is_pair(config.input) else _checkpoint
    with of_kind(config) as stored:
        yield stored


@contextmanager
def _checkpoint(flags: ProgramsConfig) -> Iterator[StoredModel]:
    path = resolve(flags.input)
    manifest = read_manifest(path)
    config = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    dataset = dataset_of(path, config, flags.data_dir)
    check_catalog(path, manifest.meta, dataset)
    tokens = recorded_tokens(path, config, dataset, flags.tokenizer, flags.llama_path)
    if tokens is not None:
        check_tokens(path, config, dataset, tokens)
    sizes = sizes_for(sizes_of_checkpoint(path, manifest), dataset)
    with Reader(path, manifest) as reader:
        arrays = TrainedArrays(reader, manifest)
        beside = arrays.weights(without=(LLAMA,))
        with llama_of_checkpoint(
            path, manifest, arrays, flags.llama_path, flags.data_dir, _used(config)
        ) as (llama, _):
            yield StoredModel(
                path, manifest.step, config, replace(sizes, lora=None), dataset,
                tokens, llama, beside,
            )  # fmt: skip


@contextmanager
def _pair(flags: ProgramsConfig) -> Iterator[StoredModel]:
    pair, path = read_pair(flags.input), flags.input
    dataset = dataset_of(path, pair.config, flags.data_dir)
    check_pair_catalog(pair, dataset)
    tokenizer = flags.tokenizer
    if tokenizer is None and (path / TOKENIZER_FILE).is_file():
        tokenizer = path / TOKENIZER_FILE
    tokens = recorded_tokens(path, pair.config, dataset, tokenizer, path)
    if tokens is not None:
        check_tokens(path, pair.config, dataset, tokens)
    check_pair(pair)
    sizes, used = sizes_for(pair.sizes, dataset), _used(pair.config)
    with tensors(path) as llama, safetensors_slices([path / TENSORS_FILE]) as beside:
        yield StoredModel(
            path, pair.step, pair.config, sizes, dataset, tokens,
            {key: of_slice(one).as_dtype(used) for key, one in llama.items()},
            {key: of_slice(one) for key, one in beside.items()},
        )  # fmt: skip


def in_memory(opened: Opened) -> StoredModel:
    """Returns an open model as if its files held it; no prompt was computed for it."""
    assert opened.prefix is None, "the tokens of the prompt are no longer known"
    llama, beside = opened.model.llama, dict[str, Weight]()
    for route, leaf in jax.tree_util.tree_leaves_with_path(opened.model):
        path = leaf_name(route)
        if not path.startswith(_LLAMA):
            (tensor,) = tensors_of(path, leaf.shape)
            beside[tensor.name] = Weight.of(np.asarray(leaf))
    dtype = np.dtype(llama.embedding.dtype)
    weights = llama_weights(llama.config, dtype, arrays_of(llama))
    return StoredModel(
        opened.path, opened.step, opened.config, opened.model.config, opened.dataset,
        opened.tokens, weights, beside,
    )  # fmt: skip


def _used(config: RunConfig) -> np.dtype:
    """Returns the dtype in which a run uses its Llama's weights."""
    return FLOATS["float32" if config.strategy == "all" else config.dtype]
