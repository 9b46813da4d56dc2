"""From a user's flags to the config of a run: every unset flag gets a value.

What is not given follows the data (`eqids.config.recipe_rule`), or is what a resumed
run recorded.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax

import convert
from eqids.config import (
    LLAMA_PRESETS,
    SCRATCH_SIZES,
    DataFacts,
    LlamaConfig,
    Recipe,
    RunConfig,
    Strategy,
    TrainConfig,
    recipe_for,
    require,
    size_for,
)

DEFAULT_DATA = Path("data/ml-100k")


def checked(flags: TrainConfig) -> TrainConfig:
    """Returns flags with absolute paths, checked as far as no data is needed.

    Raises:
        UserError: flags contradict each other: LoRA or --init_items text without a
            pretrained Llama, LoRA's flags without LoRA, or flags that ask for two
            Llamas.
    """
    flags = _absolute(flags)
    strategy = strategy_of(flags)
    _check_llama(flags, strategy)
    _check_lora(flags, strategy)
    return flags


def with_llama_size(
    flags: TrainConfig, facts: DataFacts, recorded: RunConfig | None = None
) -> TrainConfig:
    """Returns flags with a size of Llama, if they name no Llama.

    It is the size of the run that is resumed, or the one that the data asks for.

    Args:
        flags: the run's flags.
        facts: the data.
        recorded: the config of the run that is resumed, if any.
    """
    if flags.llama_size or flags.llama_path or flags.llama_config:
        return flags
    size = None if recorded is None else recorded.flags.llama_size
    if size not in SCRATCH_SIZES:
        size = size_for(facts)
    return dataclasses.replace(flags, llama_size=size)


def folder_of(flags: TrainConfig) -> Path:
    """Returns the folder of a run, whose flags name a Llama."""
    if flags.checkpoint_dir is not None:
        return flags.checkpoint_dir
    llama: str | None = flags.llama_size
    if flags.llama_config is not None:
        llama = flags.llama_config.stem
    elif flags.llama_path is not None and not _is_published(flags):
        llama = flags.llama_path.name
    data = (flags.data_dir or DEFAULT_DATA).name
    return Path("runs") / f"{data}-{llama}-{strategy_of(flags)}-seed{flags.seed}"


def continued_folder(checkpoint: Path) -> Path:
    """Returns the folder of a run that continues another: RUN-more1, then RUN-more2.

    Args:
        checkpoint: what it continues, DIR/STEP or DIR.
    """
    path = checkpoint.resolve()
    run = path.parent if path.name.isdigit() else path
    name, _, number = run.name.rpartition("-more")
    if name and number.isdigit():
        return run.with_name(f"{name}-more{int(number) + 1}")
    return run.with_name(f"{run.name}-more1")


def resolved(
    flags: TrainConfig, facts: DataFacts, recorded: RunConfig | None = None
) -> RunConfig:
    """Returns the config of a run: its flags, over the recipe for its data.

    Args:
        flags: the run's flags.
        facts: the data, which the recipe follows.
        recorded: the config of the run that is resumed, if any; its recipe stays.

    Raises:
        UserError: see `checked`; or --stop_at is past the last step, or --accumulate
            does not divide the batch.
    """
    flags = with_llama_size(checked(flags), facts, recorded)
    strategy = strategy_of(flags)
    recipe = _recipe(flags, facts, strategy, recorded)
    require(
        flags.stop_at is None or flags.stop_at <= recipe.num_steps,
        f"--stop_at is {flags.stop_at}, wanted at most --num_steps, which is "
        f"{recipe.num_steps}",
    )
    require(
        recipe.batch_size % flags.accumulate == 0,
        f"--accumulate is {flags.accumulate}, wanted a number that divides "
        f"--batch_size, which is {recipe.batch_size}",
    )
    return RunConfig(
        flags=flags,
        recipe=recipe,
        strategy=strategy,
        dtype=_dtype(flags.dtype),
        stop_at=flags.stop_at or recipe.num_steps,
        save_every=flags.save_every or recipe.eval_every,
        data_dir=(flags.data_dir or DEFAULT_DATA).resolve(),
        checkpoint_dir=folder_of(flags),
        continues=None if recorded is None else recorded.continues,
    )


def scratch_sizes(flags: TrainConfig) -> LlamaConfig | None:
    """Returns the sizes of a small Llama from scratch, or None for a published one.

    Raises:
        UserError: --llama_config is no config of a Llama.
    """
    if flags.llama_config is not None:
        return convert.read_config_file(flags.llama_config)
    small = flags.llama_path is None and flags.llama_size in SCRATCH_SIZES
    return LLAMA_PRESETS[flags.llama_size] if small and flags.llama_size else None


def _recipe(
    flags: TrainConfig, facts: DataFacts, strategy: Strategy, recorded: RunConfig | None
) -> Recipe:
    fields = (field.name for field in dataclasses.fields(Recipe))
    inner = ("text_width", "first_step")
    names = [*(name for name in fields if name not in inner), "epochs"]
    given = {name: getattr(flags, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if recorded is not None:
        given = _recorded(recorded.recipe, given) | given
    return recipe_for(
        facts, scratch_sizes(flags), strategy, given, flags.reads_text,
        flags.text_llama_path is not None and flags.text_features is not False,
    )  # fmt: skip


def _recorded(recipe: Recipe, given: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe by field, before text columns are added, and without the steps
    if they are given as epochs."""
    values = dataclasses.asdict(recipe)
    values["item_width"] -= values.pop("text_width")
    if "epochs" in given and not recipe.first_step:
        del values["num_steps"]
    return values


def _check_llama(flags: TrainConfig, strategy: Strategy) -> None:
    require(
        flags.llama_path is None or not flags.from_scratch,
        "--llama_path and --from_scratch contradict each other, wanted one of them",
    )
    for name in ("llama_path", "llama_size"):
        require(
            flags.llama_config is None or getattr(flags, name) is None,
            f"--llama_config and --{name} contradict each other, wanted one of them",
        )
    require(
        flags.init_items != "text"
        or not is_scratch(flags)
        or flags.estimate_memory_only,
        "--init_items text needs --llama_path DIR or a published --llama_size: a "
        "randomly initialised Llama cannot encode text",
    )
    require(
        flags.llama_learning_rate is None or strategy != "heads",
        f"--llama_learning_rate is {flags.llama_learning_rate}, and Llama is frozen; "
        "wanted --train lora or all",
    )


def strategy_of(flags: TrainConfig) -> Strategy:
    """Returns which weights train: by the flags, or by the default for their Llama."""
    default: Strategy = "all" if is_scratch(flags) else "heads"
    return "heads" if flags.freeze_llama else flags.train or default


def is_scratch(flags: TrainConfig) -> bool:
    """Returns whether a run's Llama starts from random weights."""
    return flags.llama_path is None and not wants_hub(flags)


def _absolute(flags: TrainConfig) -> TrainConfig:
    """Returns flags with absolute paths: a run records them."""
    names = ("llama_path", "llama_config", "text_llama_path", "tokenizer",
             "load_checkpoint", "init_from", "continue_from")  # fmt: skip
    paths = {name: getattr(flags, name) for name in names}
    given = {name: path.absolute() for name, path in paths.items() if path is not None}
    return dataclasses.replace(flags, **given)


def wants_hub(flags: TrainConfig) -> bool:
    """Returns whether a run's Llama is to be fetched from the Hugging Face hub."""
    return _is_published(flags) and not flags.from_scratch and flags.llama_path is None


def _is_published(flags: TrainConfig) -> bool:
    return flags.llama_size is not None and flags.llama_size not in SCRATCH_SIZES


def _check_lora(flags: TrainConfig, strategy: Strategy) -> None:
    pretrained = flags.llama_path is not None or wants_hub(flags)
    require(
        strategy != "lora" or pretrained or flags.estimate_memory_only,
        "--train lora needs --llama_path DIR or a published --llama_size: LoRA needs "
        "pretrained weights",
    )
    defaults = TrainConfig()
    for name in ("lora_rank", "lora_alpha", "lora_targets"):
        require(
            strategy == "lora" or getattr(flags, name) == getattr(defaults, name),
            f"--{name} is for --train lora, and this run is --train {strategy}",
        )


def _dtype(
    name: Literal["auto", "float32", "bfloat16"],
) -> Literal["float32", "bfloat16"]:
    if name == "auto":
        return "bfloat16" if jax.default_backend() == "gpu" else "float32"
    return name
