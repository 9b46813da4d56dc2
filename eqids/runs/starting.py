"""A new run that starts from another one's checkpoint, or from a pair of files.

Whatever shapes the model and what it reads is taken over from there, unless the new
run's own command line says otherwise; see `eqids.config.stages`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx

from convert.hf_eqids import Pair, check_pair, load_beside, read_pair
from eqids.checkpoints import DamageError, read_manifest, resolve, steps
from eqids.config import (
    LLAMA_FLAGS,
    MODEL_FLAGS,
    RunConfig,
    TrainConfig,
    flag,
    from_json,
    model_flags,
    taken_over,
)
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.fit.step import State
from eqids.runs.recipe import strategy_of
from eqids.runs.recorded_folders import (
    check_dataset_exists,
    check_llama_exists,
    llama_folder,
)
from eqids.runs.same_sizes import check_llama_size, check_strategy
from eqids.runs.weights import check_unused
from sharding import Placement

Read = Callable[[Mapping[str, Any]], TrainConfig]
"""Returns a run's flags, given what they are where the command line is silent."""


@dataclass(frozen=True)
class Source:
    """What a run takes its flags over from."""

    path: Path
    """The checkpoint, DIR/STEP, or the folder of the pair."""
    config: RunConfig
    """Of the run that made it."""
    is_pair: bool = False
    """Whether it is a pair: a whole Llama, low-rank changes merged."""
    is_own: bool = False
    """Whether it is a checkpoint of the run itself, which goes on."""


def source_of(flags: TrainConfig) -> Source | None:
    """Returns what a run takes its flags over from.

    It is the run's own newest sound checkpoint, if `--checkpoint_dir` has one: what it
    started from may be gone. Else it is the checkpoint or the pair to start from.

    Args:
        flags: the run's.

    Raises:
        UserError: there is no such checkpoint, or no such pair.
    """
    if flags.starts_from is None:
        return None
    folder = flags.checkpoint_dir
    own = None if folder is None else newest_of(folder)
    if own is not None:
        return replace(own, is_own=True)
    if flags.load_checkpoint is not None:
        return _of_checkpoint(resolve(flags.load_checkpoint, "--load_checkpoint"))
    assert flags.init_from is not None
    return _of_pair(read_pair(flags.init_from))


def newest_of(folder: Path) -> Source | None:
    """Returns the newest sound checkpoint in a run's folder, or None.

    Damaged ones are passed over: the run reports them, once it holds its folder.
    """
    for step in reversed(steps(folder)):
        with suppress(DamageError):
            return _of_checkpoint(folder / str(step))
    return None


def _of_checkpoint(path: Path) -> Source:
    config = read_manifest(path).meta["config"]
    return Source(path, from_json(RunConfig, config, f"{path}: config"))


def _of_pair(pair: Pair) -> Source:
    """The run that made a pair, as if it had found its Llama in the pair's folder."""
    flags = pair.config.flags
    has_tokenizer = (pair.folder / TOKENIZER_FILE).is_file()
    flags = replace(
        flags,
        llama_path=pair.folder,
        from_scratch=False,
        tokenizer=None if has_tokenizer else flags.tokenizer,
    )
    return Source(pair.folder, replace(pair.config, flags=flags), is_pair=True)


def flags_taken_over(
    flags: TrainConfig, read: Read, report: Callable[[str], None]
) -> TrainConfig:
    """Returns a run's flags with what it takes over from what it starts from.

    From Python, `read` may be `lambda defaults: TrainConfig(**{**defaults, **given})`.

    Args:
        flags: the run's, as its command line alone says them.
        read: reads the command line again, over other defaults.
        report: hears in one line what is taken over, and in another what the command
            line changes.

    Raises:
        UserError: there is no such checkpoint or pair, or the dataset or the Llama that
            its run recorded is not there.
    """
    source = source_of(flags)
    if source is None:
        return flags
    offered = _offered(source, flags)
    found = read(offered)
    taken = [
        flag(name, value)
        for name, value in offered.items()
        if getattr(flags, name) != value == getattr(found, name)
        and not (name == "llama_path" and flags.init_from is not None)
    ]
    if found.load_checkpoint is not None and not source.is_own:
        if found.llama_path is None:
            check_llama_size(source.path, source.config, found.llama_size)
        check_strategy(source.path, source.config.strategy, strategy_of(found))
    if found.data_dir == source.config.data_dir:
        check_dataset_exists(source.path, source.config)
    if found.llama_path is not None and found.llama_path == offered.get("llama_path"):
        named = "--llama_path" if flags.init_from is None else "--init_from"
        check_llama_exists(source.path, found.llama_path, named)
    if taken and "train" not in offered and not _says_train(flags):
        taken[-1] += f"; what trains is chosen anew: --train {strategy_of(found)}"
    changed = _changes(source, offered, found)
    for verb, said in (("taken over", taken), ("changed", changed)):
        if said:
            report(f"{verb} from {source.path}: {', '.join(said)}")
    return found


def _says_train(flags: TrainConfig) -> bool:
    return flags.freeze_llama or flags.train is not None


def _offered(source: Source, given: TrainConfig) -> dict[str, Any]:
    """What flags of a run are where its command line is silent."""
    offered = taken_over(source.config, given)
    if "llama_path" in offered:
        offered["llama_path"] = given.init_from or llama_folder(source.config)
    if source.is_pair:  # Low-rank changes are merged.
        for name in ("train", "lora_rank", "lora_alpha", "lora_targets"):
            offered.pop(name, None)
    return offered


def _changes(
    source: Source, offered: Mapping[str, Any], found: TrainConfig
) -> list[str]:
    """The flags that the command line changes, and what they were."""
    was, default = model_flags(source.config), TrainConfig()
    changed = []
    for name in sorted({*offered, *LLAMA_FLAGS}, key=MODEL_FLAGS.index):
        now, silent = getattr(found, name), offered.get(name, getattr(default, name))
        if not _same(now, silent) and not _same(now, was[name]):
            before = "not given" if was[name] is None else flag(name, was[name])
            changed.append(f"{flag(name, now)} (it was {before})")
    return changed


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return bool(one == other)


def load_pair_weights(
    state: State,
    stored: State,
    folder: Path,
    meta: Mapping[str, Any],
    put: Placement,
) -> State:
    """Returns a new run's state with the weights of a pair, whose Llama it has.

    Args:
        state: at step 0.
        stored: its shapes in checkpoints, see `stored_shapes`.
        folder: the pair's.
        meta: what the new run would record.
        put: where weights go.

    Raises:
        UserError: a file of another pair, or a tensor that is not what it should be.
    """
    pair = read_pair(folder)
    check_pair(pair, meta["base"])
    check_unused(folder, pair.meta, meta)
    params = eqx.combine(load_beside(pair, stored.params, put), state.params)
    return replace(state, params=params)
