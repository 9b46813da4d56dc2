"""The inputs of a run, opened from its flags: config, dataset, tokens, and model
sizes."""

import dataclasses
from dataclasses import dataclass

from convert.hf_eqids import read_pair
from eqids.checkpoints import latest_step
from eqids.cli import say, warn
from eqids.config import (
    ModelConfig,
    PrepareConfig,
    RunConfig,
    TrainConfig,
    require,
    same_path,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.preparation import prepare
from eqids.fit.active_clusters import choose_item_optimizer
from eqids.runs.new_model import model_config
from eqids.runs.pretrained_llama import llama_sizes, with_llama_path
from eqids.runs.recipe import DEFAULT_DATA, resolved
from eqids.runs.recorded_folders import check_dataset_exists, check_llama_exists
from eqids.runs.run_folder import (
    check_start,
    recorded_counts,
    recorded_item_optimizer,
)
from eqids.runs.run_tokens import (
    check_reads_alike,
    prefix_length,
    requested_tokens,
    say_once,
)
from eqids.runs.same_catalog import check_pair_catalog
from eqids.runs.starting_point import newest_checkpoint, starting_point
from sharding import barrier, is_first


@dataclass(frozen=True)
class RunInputs:
    """Config, dataset and tokens of a run."""

    config: RunConfig
    dataset: Dataset
    tokens: ItemTokens | None
    """The tokens of the items' texts, or none."""

    @property
    def prefix_length(self) -> int:
        """Returns the number of the prompt's tokens, if the prompt is computed once."""
        return prefix_length(self.tokens, self.config.strategy)


def open_inputs(flags: TrainConfig) -> RunInputs:
    """Opens what the flags of a run name; all processes call it.

    Raises:
        UserError: the flags, the dataset, the Llama and the tokenizer do not fit
            together, or one of them does not exist.
    """
    config = resolved(flags)
    _check_recorded_folders(config)
    dataset = _open_dataset(config)
    config = with_llama_path(config)
    tokens = requested_tokens(config.flags, dataset, say_once)
    in_folder = dataclasses.replace(config.flags, checkpoint_dir=config.checkpoint_dir)
    start = starting_point(in_folder)
    if start is not None:
        other_texts = check_reads_alike(
            start.path, start.config, config.flags, dataset, tokens
        )
        if other_texts is not None:
            warn(other_texts)
    return RunInputs(config, dataset, tokens)


def complete_inputs(inputs: RunInputs) -> tuple[RunInputs, ModelConfig]:
    """Returns the inputs with item optimizer and token hashes, and the model's sizes.

    The item optimizer depends on the catalog and on the run's folder, which is locked.

    Raises:
        UserError: the run would start from a checkpoint of another catalog, or the
            model's sizes do not fit together.
    """
    config, dataset = inputs.config, inputs.dataset
    flags, folder = config.flags, config.checkpoint_dir
    check_start(flags, folder, dataset)
    if flags.init_from is not None and latest_step(folder) is None:
        check_pair_catalog(read_pair(flags.init_from), dataset)
    recorded = recorded_item_optimizer(flags, folder)
    items = choose_item_optimizer(recorded, dataset, config.recipe)
    counts = recorded_counts(flags, folder)
    flags = dataclasses.replace(flags, item_optimizer=items, counts=counts)
    tokens = None if inputs.tokens is None else inputs.tokens.config
    config = dataclasses.replace(config, flags=flags, tokens=tokens)
    sizes = model_config(config, dataset, llama_sizes(flags, inputs.tokens))
    return dataclasses.replace(inputs, config=config), sizes


def _open_dataset(config: RunConfig) -> Dataset:
    """Opens the dataset; the default one is prepared first if it does not exist."""
    path = config.flags.data_dir
    if path is None:
        if is_first() and not DEFAULT_DATA.exists():
            prepare(PrepareConfig(data_dir=DEFAULT_DATA), say)
        barrier("the dataset is prepared")
    dataset = open_dataset(path or DEFAULT_DATA)
    require(
        bool(dataset.item_counts[dataset.item_valid].any()),
        f"all items in training events of {dataset.path} are retired, wanted some that "
        "are not; bring retired ones back: python -m eqids.catalog add --data_dir "
        f"{dataset.path} --items FILE",
    )
    return dataset


def _check_recorded_folders(config: RunConfig) -> None:
    """Raises UserError if a resumed run's dataset or Llama no longer exists."""
    found = newest_checkpoint(config.checkpoint_dir)
    if found is None:
        return
    if config.flags.data_dir is not None and config.data_dir == found.config.data_dir:
        check_dataset_exists(found.path, config)
    llama = config.flags.llama_path
    was = found.config.flags.llama_path
    if llama is not None and was is not None and same_path(llama, was):
        check_llama_exists(found.path, llama)
