"""Flags that a new run takes over from the checkpoint or the pair that it starts from.

They are the flags that determine the model and its inputs; the new run's own command
line overrides them, see `eqids.config.stages`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eqids.config import (
    LLAMA_FLAGS,
    TrainConfig,
    flag,
    recorded_flags,
    taken_over,
)
from eqids.runs.recipe import continued_folder, strategy_of
from eqids.runs.recorded_folders import (
    check_dataset_exists,
    check_llama_exists,
    llama_folder,
)
from eqids.runs.same_sizes import check_llama_size, check_strategy
from eqids.runs.starting_point import StartingPoint, starting_point

ParseFlags = Callable[[Mapping[str, Any]], TrainConfig]
"""Parses the command line over these defaults."""


def flags_taken_over(
    flags: TrainConfig, parse: ParseFlags, report: Callable[[str], None]
) -> TrainConfig:
    """Returns a run's flags with those that it takes over.

    From Python, `parse` may be `lambda defaults: TrainConfig(**{**defaults, **given})`.

    Args:
        flags: the run's flags, as its command line alone gives them.
        parse: parses the command line again, over other defaults.
        report: receives a line with the flags that are taken over, and one with those
            that the command line changes.

    Raises:
        UserError: the checkpoint or pair does not exist, or the dataset or the Llama
            that its run recorded no longer exists.
    """
    folder = flags.checkpoint_dir
    if flags.continue_from is not None and folder is None:
        folder = continued_folder(flags.continue_from)
    start = starting_point(replace(flags, checkpoint_dir=folder))
    if start is None:
        return flags
    offered = _offered(start, flags)
    found = replace(parse(offered), checkpoint_dir=folder)
    _check(start, flags, found, offered)
    for verb, said in (
        ("taken over", _taken(flags, found, offered)),
        ("changed", _changes(start, offered, found)),
    ):
        if said:
            report(f"{verb} from {start.path}: {', '.join(said)}")
    return found


def _offered(start: StartingPoint, given: TrainConfig) -> dict[str, Any]:
    """The values of flags that the command line does not give."""
    offered = taken_over(start.config, given)
    if "llama_path" in offered:
        offered["llama_path"] = given.init_from or llama_folder(start.config)
    if start.is_pair:  # Low-rank changes are merged.
        for name in ("train", "lora_rank", "lora_alpha", "lora_targets"):
            offered.pop(name, None)
    return offered


def _check(
    start: StartingPoint,
    flags: TrainConfig,
    found: TrainConfig,
    offered: Mapping[str, Any],
) -> None:
    """Makes the checks that need neither the dataset nor the Llama."""
    if found.load_checkpoint is not None and not start.is_own:
        if found.llama_path is None:
            check_llama_size(start.path, start.config, found.llama_size)
        check_strategy(start.path, start.config.strategy, strategy_of(found))
    if found.data_dir == start.config.data_dir:
        check_dataset_exists(start.path, start.config)
    if found.llama_path is not None and found.llama_path == offered.get("llama_path"):
        named = "--llama_path" if flags.init_from is None else "--init_from"
        check_llama_exists(start.path, found.llama_path, named)


def _taken(
    flags: TrainConfig, found: TrainConfig, offered: Mapping[str, Any]
) -> list[str]:
    """The flags that are taken over."""
    taken = [
        flag(name, value)
        for name, value in offered.items()
        if getattr(flags, name) != value == getattr(found, name)
        and not (name == "llama_path" and flags.init_from is not None)
    ]
    gives_train = flags.freeze_llama or flags.train is not None
    if taken and "train" not in offered and not gives_train:
        taken[-1] += f"; what trains is chosen anew: --train {strategy_of(found)}"
    return taken


def _changes(
    start: StartingPoint, offered: Mapping[str, Any], found: TrainConfig
) -> list[str]:
    """The flags that the command line changes, with their old values."""
    was, default = recorded_flags(start.config), TrainConfig()
    changed = []
    for name in sorted({*offered, *LLAMA_FLAGS}, key=[*was].index):
        now, silent = getattr(found, name), offered.get(name, getattr(default, name))
        if not _same(now, silent) and not _same(now, was[name]):
            before = "not given" if was[name] is None else flag(name, was[name])
            changed.append(f"{flag(name, now)} (it was {before})")
    return changed


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return bool(one == other)
