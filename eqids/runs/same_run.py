"""Checks that a run may resume a checkpoint: it must repeat some settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eqids.config import ModelConfig, Recipe, UserError, from_json, to_json
from eqids.runs.same_catalog import other_catalog

_IDENTITY = ("seed", "grad_clip", "tied_items", "counts", "init_items",
             "item_optimizer", "gap_dropout", "shuffle_ties", "accumulate",
             "llama_learning_rate", "prompt", "text_tokens_per_item",
             "request_time")  # fmt: skip
"""Flags that a resumed run must repeat, besides its recipe, strategy and dtype."""
_FREE = ("early_stop",)
"""What a resumed run may change of its recipe."""


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises UserError at the first setting in which two runs differ.

    Args:
        path: the older run's checkpoint.
        old: what it records.
        new: what the new run would record.
    """
    now = _identity(new)
    for name, was in _identity(old).items():
        if was == now[name]:
            continue
        reason = difference(name, path, old, new)
        if reason is not None:
            raise UserError(f"{reason}, or another --checkpoint_dir for a new run")
        if name == "--num_steps" and was < now[name]:
            raise UserError(
                f"{path} is of a run of {was} steps, and --num_steps is {now[name]}; "
                "wanted the same, another --checkpoint_dir, or more steps in a new "
                f"folder: --continue_from {path.parent} --more_steps {now[name] - was}"
            )
        raise UserError(
            f"{path} was made with {name} {_apart(was, now[name])}, this run has "
            f"{_apart(now[name], was)}; wanted the same, or another --checkpoint_dir"
        )


def difference(
    name: str, path: Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> str | None:
    """Returns the message for two runs that differ in a hash, with a remedy.

    Args:
        name: the name of the hash.
        path: the path of the checkpoint that records the older run.
        old: what the checkpoint records.
        new: what a new run would record.

    Returns:
        A sentence, or None for a setting that is not a hash.
    """
    config, again = new["config"], f"--load_checkpoint {path}"
    data, llama = config["data_dir"], config["flags"]["llama_path"]
    flag = "--llama_path" if config["flags"]["init_from"] is None else "--init_from"
    if name == "catalog_id":
        return other_catalog(path, old, Path(data))
    return {
        "dataset_hash": f"{path} was trained on other histories of the same items than "
        f"those of {data}, and a run keeps to one dataset; wanted the same --data_dir, "
        f"or a new run that continues it: --continue_from {path.parent} in place of "
        "--checkpoint_dir",
        "base": f"{path} was trained over another Llama than this run has"
        + (" (a random one)" if llama is None else f" in {llama}")
        + f"; wanted the same weights, see {flag}",
        "tokenizer": f"{path} was trained with one tokenizer, this run has another; "
        "wanted the same tokenizer.json, see --tokenizer",
        "tokens": f"{path} was trained with other texts of items than those of {data}, "
        "and a run keeps to its texts; wanted the same (prepared with the same "
        f"--text), or the weights alone: {again} with another --checkpoint_dir",
    }.get(name)


def _apart(value: Any, other: Any) -> Any:
    """The fields of the first object whose values differ in the second."""
    if not (isinstance(value, Mapping) and isinstance(other, Mapping)):
        return value
    return {
        name: _apart(inner, other.get(name))
        for name, inner in value.items()
        if inner != other.get(name)
    }


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run must share with a checkpoint to resume it."""
    config, flags = meta["config"], meta["config"]["flags"]
    # An older checkpoint lacks the newest fields.
    sizes = to_json(from_json(ModelConfig, meta["model"], "model"))
    lora = sizes.pop("lora") or {}
    recipe = to_json(from_json(Recipe, config["recipe"], "recipe"))
    recipe = {n: value for n, value in recipe.items() if n not in _FREE}
    return {
        **{name: meta[name] for name in ("catalog_id", "dataset_hash", "base")},
        # A Llama in files is compared by its base and sizes.
        "--llama_size": None if flags["llama_path"] else flags["llama_size"],
        **{f"--{name}": flags[name] for name in _IDENTITY},
        **{f"--{name}": value for name, value in recipe.items()},
        "--train": config["strategy"],
        **{f"--lora_{name}": value for name, value in lora.items()},
        "--dtype": config["dtype"],
        "sizes": sizes,
        **(config["tokens"] or {"tokenizer": None, "tokens": None}),
    }
