"""From a user's flags to the config of a run: every unset flag gets a value."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from eqids.config import (
    NANO_RECIPE,
    PRETRAINED_RECIPES,
    Recipe,
    RunConfig,
    Strategy,
    TrainConfig,
    require,
)

DEFAULT_DATA = Path("data/ml-100k")
_WITH_TEXT = 4
"""How many times longer rows are by default if items have texts."""


def resolved(flags: TrainConfig) -> RunConfig:
    """Returns the config of a run: its flags, over the recipe of its size and strategy.

    Raises:
        UserError: flags contradict each other: LoRA or --init_items text without a
            pretrained Llama, LoRA's flags without LoRA, flags that ask
            for a pretrained Llama and for random weights, or --stop_at past the last
            step.
    """
    flags = _absolute(flags)
    strategy = strategy_of(flags)
    _check_llama(flags, strategy)
    _check_lora(flags, strategy)
    recipe = _recipe(flags, strategy)
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
    data = flags.data_dir or DEFAULT_DATA
    llama = flags.llama_size if flags.llama_path is None else flags.llama_path.name
    name = f"{data.name}-{llama}-{strategy}-seed{flags.seed}"
    return RunConfig(
        flags=flags,
        recipe=recipe,
        strategy=strategy,
        dtype=_dtype(flags.dtype),
        stop_at=flags.stop_at or recipe.num_steps,
        save_every=flags.save_every or recipe.eval_every,
        data_dir=data.resolve(),
        checkpoint_dir=flags.checkpoint_dir or Path("runs") / name,
    )


def _recipe(flags: TrainConfig, strategy: Strategy) -> Recipe:
    """The recipe of a size and a strategy, with what the flags change."""
    nano = is_scratch(flags) and flags.llama_size == "nano"
    recipe = NANO_RECIPE if nano else PRETRAINED_RECIPES[strategy]
    if flags.reads_text:
        recipe = dataclasses.replace(recipe, seq_len=_WITH_TEXT * recipe.seq_len)
    names = {field.name for field in dataclasses.fields(Recipe)} - {"text_width"}
    given = {name: getattr(flags, name) for name in names}
    return dataclasses.replace(
        recipe, **{name: value for name, value in given.items() if value is not None}
    )


def _check_llama(flags: TrainConfig, strategy: Strategy) -> None:
    require(
        flags.llama_path is None or not flags.from_scratch,
        "--llama_path and --from_scratch contradict each other, wanted one of them",
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
    names = ("llama_path", "text_llama_path", "tokenizer", "load_checkpoint",
             "init_from")  # fmt: skip
    paths = {name: getattr(flags, name) for name in names}
    given = {name: path.absolute() for name, path in paths.items() if path is not None}
    return dataclasses.replace(flags, **given)


def wants_hub(flags: TrainConfig) -> bool:
    """Returns whether a run's Llama is to be fetched from the Hugging Face hub."""
    published = flags.llama_size != "nano" and not flags.from_scratch
    return published and flags.llama_path is None


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
