"""Checkpoints with noisy weights, and the pairs that `eqids-to-hf` makes of them."""

from pathlib import Path
from typing import Any

from folders import write_hf
from runs import save_noisy

from convert import __main__ as convert_door
from eqids.config import TrainConfig
from eqids.data import Dataset

SIZES = "--batch_size 4 --seq_len 16"
STILL = f"{SIZES} --num_steps 1 --learning_rate 1e-30 --item_optimizer dense"
"""Flags of a run that ends where it starts."""


def write_bases(folder: Path) -> Path:
    """Writes the Llamas that pairs are of, and returns their folder."""
    write_hf(folder / "untied", shards=2)
    write_hf(folder / "tied", tied=True)
    return folder


def save_pair(
    folder: Path, name: str, bases: Path, dataset: Dataset
) -> tuple[Path, Path]:
    """Returns the checkpoint of a strategy and its pair, made where they are not there.

    Args:
        folder: of all of them.
        name: the strategy, after `tied` where the Llama is; or `random`.
        bases: see `write_bases`.
        dataset: what the run is of.
    """
    run, pair = folder / f"{name} run", folder / f"{name} pair"
    if run.exists():
        return run, pair
    *tied, strategy = name.split()
    base = bases / ("tied" if tied else "untied")
    asked: dict[str, Any] = {"train": strategy, "llama_path": base}
    if strategy == "random":
        asked = {"train": "heads"}
    if strategy == "lora":
        asked["lora_rank"] = 2
    flags = TrainConfig(
        data_dir=dataset.path, item_width=8, adapter="linear", seq_len=16,
        tied_items=not tied, **asked,
    )  # fmt: skip
    save_noisy(run, flags, dataset)
    convert_door.main(["eqids-to-hf", str(run), str(pair)])
    return run, pair
