"""EqIDs turns a pretrained Llama into a recommender.

import eqids

dataset = eqids.prepare(plays, "data/plays", items=tracks)
run = eqids.train(dataset)
recommender = eqids.load(run.checkpoint_dir)
recommender.recommend([[50, 181, 172]], k=10)

`prepare` and `train` are the modules of the commands `python -m eqids.prepare` and
`python -m eqids.train`, which can be called; see `eqids.cli.make_callable`.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqids.inference.recommender import Recommender
    from eqids.prepare import prepare_dataset as prepare
    from eqids.train import train_model as train

__all__ = ["load", "prepare", "train"]


def __getattr__(name: str) -> Any:
    """Imports the commands that are functions when they are used first."""
    if name in ("prepare", "train"):
        return importlib.import_module(f"eqids.{name}")
    raise AttributeError(f"module 'eqids' has no attribute {name!r}")


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
    compilation_cache: bool = True,
) -> "Recommender":
    """Opens a trained model for recommendations.

        recommender = eqids.load("runs/ml-100k-nano-all-seed0")
        recommender.recommend([[50, 181, 172]], k=10)

    Args:
        checkpoint: a run's folder, which means its best step, or one of its steps,
            RUN/STEP; or a folder that `python -m convert eqids-to-hf` wrote.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the folder of the frozen Llama, by default the one of the run.
        tokenizer: the tokenizer.json of a run with text, by default the one of the run.
        compilation_cache: let JAX keep compiled programs on disk, so that the next
            process starts sooner: in $JAX_COMPILATION_CACHE_DIR, or else in the folder
            `programs` of $EQIDS_CACHE or ~/.cache/eqids. It concerns all programs that
            the process compiles.

    Returns:
        A recommender; see `Recommender.recommend`.

    Raises:
        UserError: there is no such model, it is damaged, or its dataset, Llama or
            tokenizer is missing or another one.
    """
    # Imported here, so that preparing data does not pay for importing JAX.
    from eqids.cli import reported
    from eqids.inference import load_recommender

    with reported(None, False, depth=1):
        return load_recommender.load(
            checkpoint, data_dir, llama_path, tokenizer, compilation_cache
        )
