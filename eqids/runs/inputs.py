"""The inputs of a run, opened from its flags: config, dataset, tokens, and model
sizes."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from convert.hf_eqids import read_pair
from eqids.checkpoints import latest_step
from eqids.cli import say, warn
from eqids.config import (
    DataFacts,
    ModelConfig,
    PrepareConfig,
    RunConfig,
    TrainConfig,
    require,
    same_path,
)
from eqids.data import Dataset, open_dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.facts import facts_of
from eqids.data.preparation import prepare
from eqids.fit.dataset_clusters import choose_item_optimizer
from eqids.runs.new_model import model_config
from eqids.runs.pretrained_llama import llama_sizes, with_llama_path
from eqids.runs.recipe import (
    DEFAULT_DATA,
    checked,
    folder_of,
    resolved,
    with_llama_size,
)
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
from eqids.runs.text_features import with_text_features
from sharding import barrier, is_first


@dataclass(frozen=True)
class RunInputs:
    """Config, dataset and tokens of a run."""

    config: RunConfig
    dataset: Dataset
    tokens: ItemTokens | None
    """The tokens of the items' texts, or none."""
    facts: DataFacts
    """What the recipe follows."""

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
    flags = checked(flags)
    _check_recorded_folders(flags)
    dataset = _open_dataset(flags.data_dir)
    require(
        dataset.times is not None or not flags.request_time,
        f"{dataset.path} has no times, wanted no --request_time, or a dataset that was "
        "prepared with --time_column",
    )
    flags = with_llama_size(flags, facts_of(dataset), _recorded(flags.checkpoint_dir))
    recorded = _recorded(folder_of(flags))
    flags = with_llama_path(flags)
    tokens = requested_tokens(flags, dataset, say_once)
    facts = facts_of(dataset, tokens)
    config = resolved(flags, facts, recorded)
    in_folder = dataclasses.replace(config.flags, checkpoint_dir=config.checkpoint_dir)
    start = starting_point(in_folder)
    if start is not None:
        other_texts = check_reads_alike(
            start.path, start.config, config.flags, dataset, tokens
        )
        if other_texts is not None:
            warn(other_texts)
    return RunInputs(config, dataset, tokens, facts)


def complete_inputs(inputs: RunInputs) -> tuple[RunInputs, ModelConfig]:
    """Returns the inputs with all that depends on the catalog and on the run's folder,
    which is locked, and the model's sizes.

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
    start = newest_checkpoint(folder) or starting_point(flags)
    was = None if start is None else start.config
    config = with_text_features(config, dataset, was)
    counts = recorded_counts(flags, folder)
    flags = dataclasses.replace(config.flags, item_optimizer=items, counts=counts)
    tokens = None if inputs.tokens is None else inputs.tokens.config
    config = dataclasses.replace(config, flags=flags, tokens=tokens)
    sizes = model_config(config, dataset, llama_sizes(flags, inputs.tokens))
    return dataclasses.replace(inputs, config=config), sizes


def _open_dataset(path: Path | None) -> Dataset:
    """Opens the dataset; the default one is prepared first if it does not exist."""
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


def _recorded(folder: Path | None) -> RunConfig | None:
    """The config of the run that a folder holds, or None."""
    found = None if folder is None else newest_checkpoint(folder)
    return None if found is None else found.config


def _check_recorded_folders(flags: TrainConfig) -> None:
    """Raises UserError if a resumed run's dataset or Llama no longer exists."""
    named = flags.checkpoint_dir or flags.llama_size or flags.llama_path
    found = newest_checkpoint(folder_of(flags)) if named else None
    if found is None:
        return
    data = flags.data_dir
    if data is not None and data.resolve() == found.config.data_dir:
        check_dataset_exists(found.path, found.config)
    was = found.config.flags.llama_path
    if flags.llama_path is not None and was is not None:
        if same_path(flags.llama_path, was):
            check_llama_exists(found.path, flags.llama_path)
