"""A run's identity: what its checkpoints record, and what a resume must agree with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eqids.checkpoints import (
    LOCK,
    latest_step,
    read_manifest,
    resolve,
    restore_sound,
)
from eqids.config import (
    ItemOptimizer,
    TrainConfig,
    UserError,
    require,
)
from eqids.data import Dataset
from eqids.fit.step import State
from eqids.runs.same_catalog import check_catalog_version, other_catalog

_IDENTITY = ("llama_size", "seed", "grad_clip", "tied_items", "init_items",
             "item_optimizer", "gap_dropout", "shuffle_ties", "accumulate",
             "schedule", "llama_learning_rate", "prompt",
             "text_tokens_per_item", "eval_users")  # fmt: skip
"""Flags that a resumed run must repeat, besides its recipe, strategy and dtype."""

_BEFORE = {"item_optimizer": "dense", "accumulate": 1, "schedule": "cosine",
           "text_tokens_per_item": 0}  # fmt: skip
"""What runs did before there were these flags."""


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
