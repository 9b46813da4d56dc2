"""Which flags a run takes over from the checkpoint that it starts from."""

import shlex
from typing import Any

from eqids.config.run_config import RunConfig
from eqids.config.train_flags import TrainConfig

MODEL_FLAGS = (
    "llama_size", "llama_config", "llama_path", "from_scratch", "train", "lora_rank",
    "lora_alpha", "lora_targets", "data_dir", "prompt", "text_tokens_per_item",
    "tokenizer", "seq_len", "item_width", "text_features", "text_llama_path",
    "text_width", "adapter", "tied_items", "skip", "counts", "init_items",
    "gap_dropout", "shuffle_ties", "request_time", "dtype",
)  # fmt: skip
"""Flags of the model and of what it reads. A run that starts from a checkpoint takes
them over, unless its own command line gives them."""

RUN_FLAGS = (
    "freeze_llama", "checkpoint_dir", "fresh", "load_checkpoint", "init_from",
    "continue_from", "more_steps",
    "num_steps", "epochs", "max_minutes", "stop_at", "batch_size", "accumulate",
    "learning_rate", "llama_learning_rate", "schedule", "warmup_steps", "grad_clip",
    "weight_decay", "dropout", "id_dropout", "item_optimizer", "remat", "unroll_layers",
    "attention",
    "layout", "log_every", "eval_every", "eval_users", "test_users", "result_split",
    "save_every", "save_minutes", "save_blocking", "keep",
    "keep_every", "early_stop", "tensorboard", "seed", "estimate_memory_only",
    "hardware", "processes",
)  # fmt: skip
"""Flags of how a run learns, evaluates, saves and uses its machine; each run has its
own. (`freeze_llama` means `train heads`.)"""

CONTINUED_FLAGS = (
    "accumulate", "llama_learning_rate", "grad_clip", "id_dropout", "item_optimizer",
    "seed",
)  # fmt: skip
"""The `RUN_FLAGS` that a run takes over too if it continues another. Those of a recipe
are not among them: it continues with the recorded recipe."""

LLAMA_FLAGS = ("llama_size", "llama_config", "llama_path", "from_scratch")
"""The `MODEL_FLAGS` that together say which Llama it is."""


def model_flags(config: RunConfig) -> dict[str, Any]:
    """Returns the `MODEL_FLAGS` of a run, with the values that it resolved them to.

    Args:
        config: the run's config.
    """
    flags = {name: getattr(config.flags, name) for name in MODEL_FLAGS}
    sizes = {n: getattr(config.recipe, n) for n in ("seq_len", "item_width", "adapter")}
    sizes["text_width"] = config.recipe.text_width or config.flags.text_width
    resolved = {"train": config.strategy, "dtype": config.dtype}
    return flags | sizes | resolved | {"data_dir": config.data_dir}


def taken_over(config: RunConfig, given: TrainConfig) -> dict[str, Any]:
    """Returns the flags that a run takes over unless its command line gives them.

    Each stage chooses anew what trains, with one exception: low-rank changes are part
    of a model, so a run that starts from them trains them unless it gives `--train`.

    Args:
        config: the config of the run whose checkpoint is loaded.
        given: the flags on the new run's own command line.
    """
    if given.continue_from is not None:
        return recorded_flags(config)
    flags, left_out = model_flags(config), set[str]()
    another = given.llama_path is not None or given.llama_config is not None
    if another or given.from_scratch:
        left_out |= set(LLAMA_FLAGS)
    trains = "heads" if given.freeze_llama else given.train or config.strategy
    if not trains == config.strategy == "lora":
        left_out |= {"train", "lora_rank", "lora_alpha", "lora_targets"}
    return {name: value for name, value in flags.items() if name not in left_out}


def recorded_flags(config: RunConfig) -> dict[str, Any]:
    """Returns all flags that a run may take over, with a recorded run's values.

    Args:
        config: the recorded run's config.
    """
    more = {name: getattr(config.flags, name) for name in CONTINUED_FLAGS}
    return model_flags(config) | more


def flag(name: str, value: Any) -> str:
    """Returns a flag as a user types it: `--seq_len 256`, `--no_tied_items`."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{name}", *(shlex.quote(str(word)) for word in values)])
