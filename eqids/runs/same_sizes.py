"""Checks that a new run's model has the sizes of the weights that it starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from eqids.config import (
    LlamaConfig,
    LoraConfig,
    ModelConfig,
    RopeScaling,
    RunConfig,
    Strategy,
    flag,
    require,
)


def check_strategy(path: Path, was: Strategy, now: Strategy) -> None:
    """Requires that a Llama that trained in a checkpoint trains in the new run too.

    Args:
        path: the path of the checkpoint, for messages.
        was: the strategy that it was trained with.
        now: the strategy of the new run.

    Raises:
        UserError: the new run would freeze it; a frozen Llama must be in files.
    """
    require(
        was != "all" or now == "all",
        f"{path} was trained with --train all, this run has --train {now}; wanted "
        "--train all, or first write its Llama to files: python -m convert eqids-to-hf "
        f"{path} DIR, then --init_from DIR",
    )


def check_llama_size(path: Path, config: RunConfig, size: str | None) -> None:
    """Requires the --llama_size of a checkpoint whose Llama was not in files.

    Args:
        path: the path of the checkpoint, for messages.
        config: the config of its run.
        size: --llama_size of the new run, whose Llama is not in files either, if given.

    Raises:
        UserError: the new run has another size.
    """
    was = config.flags.llama_size
    require(
        config.flags.llama_path is not None or None in (size, was) or size == was,
        f"{path} was trained with --llama_size {was}, this run has --llama_size "
        f"{size}; wanted --llama_size {was}, or no --load_checkpoint for a new model",
    )


def check_shapes(path: Path, was: ModelConfig, now: ModelConfig) -> None:
    """Requires that weights fit a model, low-rank changes aside.

    Args:
        path: the path of the checkpoint that has the weights, for messages.
        was: the sizes that the checkpoint records.
        now: the sizes of the new run.

    Raises:
        UserError: they do not fit; the message names the flag.
    """
    names = "item_width text_width adapter tied_items skip request_time".split()
    for name in names:
        old, new = (flag(name, getattr(sizes, name)) for sizes in (was, now))
        require(
            old == new,
            f"{path} was trained with {old}, this run has {new}; wanted {old}, which "
            "is taken over if the command does not give it",
        )
    for_old, for_new = other_sizes(was.llama, now.llama)
    require(
        not for_old,
        f"{path} was trained with a Llama of {for_old}, this run has one of {for_new}; "
        "wanted the same Llama, which is taken over if the command gives neither "
        "--llama_path nor --llama_size",
    )


def check_lora(
    path: Path, was: LoraConfig | None, now: LoraConfig | None, strategy: Strategy
) -> None:
    """Requires that a run keeps the low-rank changes that it starts from.

    Args:
        path: the path of the checkpoint, for messages.
        was: its low-rank changes, or none.
        now: those of the new run, or none.
        strategy: what trains in the new run; `all` merges them into Llama.

    Raises:
        UserError: the run has other low-rank changes, or none.
    """
    if was is None or was == now or strategy == "all":
        return
    old, new = "--train lora", f"--train {strategy}"
    if now is not None:
        names = [f.name for f in dataclasses.fields(was)]
        names = [n for n in names if getattr(was, n) != getattr(now, n)]
        old, new = (
            " ".join(flag(f"lora_{name}", getattr(one, name)) for name in names)
            for one in (was, now)
        )
    require(
        False,
        f"{path} was trained with {old}, this run has {new}; wanted {old}, --train "
        "all, or first merge LoRA: python -m convert eqids-to-hf "
        f"{path} DIR, then --init_from DIR",
    )


def other_sizes(was: LlamaConfig, now: LlamaConfig) -> tuple[str, str]:
    """Returns the sizes in which two Llamas differ, of each as text; or empty texts.

    >>> from eqids.config import LLAMA_PRESETS
    >>> other_sizes(LLAMA_PRESETS["1b"], LLAMA_PRESETS["3b"])[1]
    'width 3072, 28 layers, 24 query heads, heads of 128'
    """
    names = [f.name for f in dataclasses.fields(was)]
    names = [n for n in names if getattr(was, n) != getattr(now, n)]
    old, new = (
        ", ".join(_size_text(name, getattr(one, name)) for name in names)
        for one in (was, now)
    )
    return old, new


_FORMATS = {
    "width": "width {}", "num_layers": "{} layers", "num_heads": "{} query heads",
    "num_kv_heads": "{} key heads", "head": "heads of {}",
    "ffn": "feed-forward width {}", "vocab": "{} tokens",
    "tied": "tie_word_embeddings {}", "norm_eps": "rms_norm_eps {}",
}  # fmt: skip
"""How messages print sizes."""


def _size_text(name: str, value: Any) -> str:
    """A size as messages print it; the scaling of frequencies by its fields."""
    if isinstance(value, RopeScaling):
        fields = dataclasses.fields(value)
        value = " ".join(f"{f.name} {getattr(value, f.name)}" for f in fields)
    text = "none" if value is None else value
    return _FORMATS.get(name, f"{name} {{}}").format(text)
