"""Checkpoints with noisy weights, and the pairs that `eqids-to-hf` makes of them."""

from pathlib import Path
from typing import Any

from folders import write_hf
from runs import save_noisy

from convert import __main__ as convert_command
from eqids.config import TrainConfig
from eqids.data import Dataset

SIZES = "--batch_size 4 --seq_len 16"
STILL = f"{SIZES} --num_steps 1 --learning_rate 1e-30 --item_optimizer dense"
"""Flags of a run whose weights stay as they are."""


def write_bases(folder: Path) -> Path:
    """Writes the Llamas that pairs need, and returns their folder."""
    write_hf(folder / "untied", shards=2)
    write_hf(folder / "tied", tied=True)
    return folder


def save_pair(
    folder: Path, name: str, bases: Path, dataset: Dataset
) -> tuple[Path, Path]:
    """Returns the checkpoint of a strategy and its pair; makes them on first use.

    Args:
        folder: that holds them.
        name: the strategy, after `tied` for a tied Llama; or `random`.
        bases: see `write_bases`.
        dataset: of the run.
    """
    run, pair = folder / f"{name} run", folder / f"{name} pair"
    if run.exists():
        return run, pair
    *tied, strategy = name.split()
    base = bases / ("tied" if tied else "untied")
    chosen: dict[str, Any] = {"train": strategy, "llama_path": base}
    if strategy == "random":
        chosen = {"train": "heads"}
    if strategy == "lora":
        chosen["lora_rank"] = 2
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16,
        tied_items=not tied, **chosen,
    )  # fmt: skip
    save_noisy(run, flags, dataset)
    convert_command.main(["eqids-to-hf", str(run), str(pair)])
    return run, pair
