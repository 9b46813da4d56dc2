"""A run's identity: what its checkpoints record, and what a resume must agree with."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from eqids.checkpoints import (
    LOCK,
    latest_step,
    read_manifest,
    resolve,
    restore_sound,
)
from eqids.config import (
    InitItems,
    ItemOptimizer,
    LlamaConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    UserError,
    require,
    to_json,
)
from eqids.data import Dataset
from eqids.data.batches.training_batches import NUM_GAPS
from eqids.data.info import INFO_FILE
from eqids.fit.step import State
from eqids.model import EqIDs, Llama

RESULT_FILE = "result.json"

_IDENTITY = ("llama_size", "seed", "grad_clip", "tied_items", "init_items",
             "item_optimizer", "gap_dropout", "shuffle_ties", "accumulate",
             "schedule", "llama_learning_rate", "prompt",
             "text_tokens_per_item", "eval_users")  # fmt: skip
"""Flags that a resumed run must repeat, besides its recipe, strategy and dtype."""

_BEFORE = {"item_optimizer": "dense", "accumulate": 1, "schedule": "cosine",
           "text_tokens_per_item": 0}  # fmt: skip
"""What runs did before there were these flags."""


def run_keys(seed: int) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Returns the key of a run's first weights and the key of its steps."""
    first, steps = jax.random.split(jax.random.key(seed))
    return first, steps


def model_config(
    config: RunConfig, dataset: Dataset, llama: LlamaConfig
) -> ModelConfig:
    """Returns the model's sizes: from the flags, the catalog and the Llama.

    Raises:
        UserError: LoRA's rank is larger than the Llama's width.
    """
    flags, recipe = config.flags, config.recipe
    lora = flags.lora if config.strategy == "lora" else None
    require(
        lora is None or lora.rank <= llama.width,
        f"--lora_rank is {flags.lora_rank}, wanted at most the Llama's width, "
        f"{llama.width}",
    )
    return ModelConfig(
        llama=llama,
        num_clusters=dataset.info.num_clusters,
        cluster_size=dataset.info.cluster_size,
        item_width=recipe.item_width,
        adapter=recipe.adapter,
        tied_items=flags.tied_items,
        num_gaps=NUM_GAPS,
        dropout=recipe.dropout,
        lora=lora,
    )


def initial_model(
    config: ModelConfig,
    dataset: Dataset,
    llama: Llama | None,
    key: PRNGKeyArray,
    init_items: InitItems = "interactions",
    text: np.ndarray | None = None,
) -> EqIDs:
    """Returns the model that a run starts from.

    Args:
        config: its sizes.
        dataset: the catalog, how often its items are used, and their vectors.
        llama: a pretrained one, or None for random weights.
        key: randomness.
        init_items: where item vectors start: from the dataset's, those of texts, or
            at random.
        text: float32 [cluster, place, width], vectors of texts, if they start there.
    """
    starts = {"interactions": dataset.item_vectors, "text": text, "random": None}
    return EqIDs(
        config,
        valid=dataset.item_valid,
        counts=dataset.item_counts,
        vectors=starts[init_items],
        llama=llama,
        key=key,
    )


def run_meta(
    config: RunConfig,
    model: ModelConfig,
    dataset: Dataset,
    base: str | None,
    validation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns what a checkpoint records beside its arrays.

    Args:
        config: the run's.
        model: the model's.
        dataset: what it trains on.
        base: fingerprint of the pretrained Llama's files, if there is one.
        validation: the evaluation of these weights, if there was one.
    """
    return {
        "config": to_json(config),
        "model": to_json(model),
        "catalog_id": dataset.info.catalog_id,
        "dataset_hash": dataset.info.dataset_hash,
        "protocol": to_json(dataset.info.protocol),
        "base": base,
        "score": validation and validation["filtered"]["ndcg@10"],
        "validation": validation,
        "versions": {p: version(p) for p in ("eqids", "jax", "equinox", "optax")},
    }


def resume(
    folder: Path,
    like: State,
    stored: State,
    meta: Mapping[str, Any],
    report: Callable[[str], None],
) -> State:
    """Returns the newest sound state in a run's folder, which holds one or more.

    See `restore_sound` for steps that are damaged.

    Args:
        folder: the run's, which this run holds, after `recover`.
        like: shapes of a state of this run, which say where arrays go.
        stored: its shapes in checkpoints, see `stored_shapes`.
        meta: what this run would record; a folder that differs is refused.
        report: hears of damaged steps.

    Raises:
        UserError: the folder holds another run (it names the first difference), or
            damaged steps only.
    """
    path = folder / str(latest_step(folder))
    check_same(path, read_manifest(path).meta, meta)
    _, state = restore_sound(folder, latest_step, like, stored, report)
    return state


def check_fresh(folder: Path) -> None:
    """Raises UserError where a run's folder holds anything but a lock."""
    names = {path.name for path in folder.iterdir()} - {LOCK}
    require(
        not names,
        f"--fresh: {folder} is not empty, it holds {', '.join(sorted(names)[:5])}; "
        "wanted a new --checkpoint_dir, or no --fresh to go on with what is there",
    )


def check_start(flags: TrainConfig, folder: Path, dataset: Dataset) -> None:
    """Requires that the catalog has not left behind what a run is to go on from.

    Args:
        flags: the run's.
        folder: its checkpoints.
        dataset: what it is to train on.

    Raises:
        UserError: it has, and the sentence names the command that helps.
    """
    newest, path = latest_step(folder), None
    if newest is not None:
        path = folder / str(newest)
    elif flags.load_checkpoint is not None:
        path = resolve(flags.load_checkpoint, "--load_checkpoint")
    if path is not None:
        check_catalog_version(path, read_manifest(path).meta, dataset)


def item_optimizer(flags: TrainConfig, folder: Path) -> ItemOptimizer:
    """Returns the optimizer of item tables that is asked for.

    A run that is there goes on with its own: `auto` might mean another by now, for
    its catalog may have grown.

    Args:
        flags: the run's.
        folder: its checkpoints.
    """
    newest = latest_step(folder)
    if flags.item_optimizer != "auto" or newest is None:
        return flags.item_optimizer
    config = read_manifest(folder / str(newest)).meta["config"]
    return _flag(config, "item_optimizer")


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises UserError at the first setting in which two runs differ.

    Args:
        path: the older one's checkpoint.
        old: what it records.
        new: what the new run would record.
    """
    now = identity(new)
    for name, was in identity(old).items():
        if was == now[name]:
            continue
        reason = difference(name, path, old, new)
        if reason is not None:
            raise UserError(f"{reason}, or another --checkpoint_dir for a new run")
        raise UserError(
            f"{path} was made with {name} {_apart(was, now[name])}, this run has "
            f"{_apart(now[name], was)}; wanted the same, or another --checkpoint_dir"
        )


def difference(
    name: str, path: Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> str | None:
    """Returns in words what differs, and what helps, where two values are hashes.

    Args:
        name: of the value.
        path: of the checkpoint that records the first of them.
        old: what the checkpoint records.
        new: what a new run would record.

    Returns:
        A sentence, or None for a setting that is not a hash.
    """
    config, again = new["config"], f"--load_checkpoint {path}"
    data, llama = config["data_dir"], config["flags"]["llama_path"]
    of_llama = "--llama_path" if config["flags"]["init_from"] is None else "--init_from"
    if name == "catalog_id":
        return other_catalog(path, old, Path(data))
    return {
        "dataset_hash": f"{path} was trained on other histories of the same items than "
        f"{data} holds, and a run keeps to one dataset; wanted the same --data_dir, or "
        f"the weights alone: {again} with another --checkpoint_dir",
        "base": f"{path} was trained over another Llama than this run has"
        + (" (a random one)" if llama is None else f" in {llama}")
        + f"; wanted the same weights, see {of_llama}",
        "tokenizer": f"{path} was trained with words split by one tokenizer, this run "
        "has another; wanted the same tokenizer.json, see --tokenizer",
        "tokens": f"{path} was trained with other texts of items than {data} holds, "
        "and a run keeps to its texts; wanted the same (prepared with the same "
        f"--text), or the weights alone: {again} with another --checkpoint_dir",
    }.get(name)


def other_catalog(path: Path, meta: Mapping[str, Any], data_dir: Path) -> str:
    """Returns in words that a checkpoint knows other items than a dataset has.

    Args:
        path: of the checkpoint.
        meta: what it records.
        data_dir: of the dataset.
    """
    was = Path(meta["config"]["data_dir"])
    same = was.resolve() == data_dir.resolve()
    old = "a copy of the dataset as it was" if same else str(was)
    return (
        f"{path} was trained on another catalog than {data_dir} has, in which items "
        f"have other places; wanted the dataset that it was trained on, see --data_dir "
        f"(it was {was}), or new data prepared with the places of the old: python -m "
        f"eqids.prepare --catalog OLD ({old}), then python -m eqids.catalog migrate "
        "brings the checkpoint along"
    )


def _apart(value: Any, other: Any) -> Any:
    """Of two objects, the fields of the first that are not those of the second."""
    if not (isinstance(value, Mapping) and isinstance(other, Mapping)):
        return value
    return {
        name: _apart(inner, other.get(name))
        for name, inner in value.items()
        if inner != other.get(name)
    }


def identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what two runs must share to be one."""
    config = meta["config"]
    sizes = dict(meta["model"])
    lora = sizes.pop("lora", None) or {}  # checkpoints before there was LoRA lack it
    return {
        **{name: meta[name] for name in ("catalog_id", "dataset_hash", "base")},
        **{f"--{name}": _flag(config, name) for name in _IDENTITY},
        **{f"--{name}": value for name, value in config["recipe"].items()},
        "--train": config["strategy"],
        **{f"--lora_{name}": value for name, value in lora.items()},
        "--dtype": config["dtype"],
        "sizes": sizes,
        **(config.get("tokens") or {"tokenizer": None, "tokens": None}),
    }


def _flag(config: Mapping[str, Any], name: str) -> Any:
    """A flag of a run; checkpoints before there was a choice lack some."""
    return config["flags"].get(name, _BEFORE.get(name))


def check_dataset_there(path: Path, config: RunConfig) -> None:
    """Raises UserError where the dataset of a run is not where the run found it.

    Args:
        path: of the run's checkpoint, for messages.
        config: of the run.
    """
    require(
        (config.data_dir / INFO_FILE).is_file(),
        f"{path} was trained on the dataset {config.data_dir}, which is not there any "
        "more; if it moved, say where it is: --data_dir DIR",
    )


def check_llama_there(path: Path, folder: Path, flag: str = "--llama_path") -> None:
    """Raises UserError where the Llama of a run is not where the run found it.

    Args:
        path: of the run's checkpoint, for messages.
        folder: where the run found its Llama.
        flag: that says where it is.
    """
    now = "is empty now" if folder.is_dir() else "is not there any more"
    require(
        folder.is_dir() and any(folder.iterdir()),
        f"{path} was trained over the Llama in {folder}, which {now}; if it moved, say "
        f"where it is: {flag} DIR",
    )


def check_catalog_version(
    path: Path, meta: Mapping[str, Any], dataset: Dataset
) -> None:
    """Raises UserError where a checkpoint was left behind by a dataset's catalog."""
    require(
        meta["catalog_id"] not in dataset.lineage.catalog_ids,
        f"{path} was trained on an earlier version of the catalog of {dataset.path}; "
        f"bring it along: python -m eqids.catalog migrate --data_dir {dataset.path} "
        f"--checkpoint {path}",
    )


def check_catalog(path: Path, meta: Mapping[str, Any], dataset: Dataset) -> None:
    """Raises UserError where a checkpoint knows other items than a dataset."""
    check_catalog_version(path, meta, dataset)
    require(
        meta["catalog_id"] == dataset.info.catalog_id,
        other_catalog(path, meta, dataset.path),
    )
