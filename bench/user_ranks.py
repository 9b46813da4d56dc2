"""Ranks of every user's target, as files: of a run's best step, and of baselines."""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bench.quality_options import SplitName
from eqids.cli import say
from eqids.data import open_dataset
from eqids.fit.baseline_ranks import baseline_ranks, why_left_out
from eqids.fit.evaluation import make_ranker, of_some_users, rank_users, targets_of
from eqids.fit.ranking import user_metrics
from eqids.inference.open import open_checkpoint
from eqids.io.atomic import new_file
from sharding import placement


@dataclass(frozen=True, eq=False)
class UserRanks:
    """The ranks of the targets of a split's users.

    Attributes:
        user: the users' numbers in the dataset.
        filtered: ranks among the items that the user has not seen.
        unfiltered: ranks among all items.
        nll: negative log-likelihoods; NaN for baselines.
    """

    user: Int[np.ndarray, " user"]
    filtered: Float[np.ndarray, " user"]
    unfiltered: Float[np.ndarray, " user"]
    nll: Float[np.ndarray, " user"]

    def gains(self, side: str = "filtered") -> Mapping[str, np.ndarray]:
        """Returns the metrics of each user, by name, from `user_metrics`."""
        return user_metrics(getattr(self, side))

    def metrics(self, side: str = "filtered") -> Mapping[str, float]:
        """Returns the means of `gains` over users."""
        return {name: float(values.mean()) for name, values in self.gains(side).items()}


def save_ranks(path: Path, ranks: UserRanks) -> None:
    """Writes ranks atomically, so that a file that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **vars(ranks))


def load_ranks(path: Path) -> UserRanks:
    """Reads ranks that `save_ranks` wrote."""
    with np.load(path) as arrays:
        return UserRanks(**{name: arrays[name] for name in arrays.files})


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Returns a function's result, computed in a new process, which then ends.

    So this process holds neither models nor an accelerator, which the next run needs.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def rank_run(checkpoints: Path, split: SplitName, most: int | None, path: Path) -> None:
    """Ranks the targets of a split by a run's best step, and writes them.

    Args:
        checkpoints: the run's folder.
        split: the split that has the targets.
        most: rank only this many users, always the same ones.
        path: the file to write.
    """
    put = placement("data")
    with put.active():
        opened = open_checkpoint(checkpoints, None, None, put)
        dataset = of_some_users(opened.dataset, most)
        seq_len = opened.config.recipe.seq_len
        ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
        ranked = rank_users(opened.model, dataset, split, ranker)
    users, _ = targets_of(dataset, split)
    save_ranks(path, UserRanks(users, ranked[:, 0], ranked[:, 1], -ranked[:, 2]))


def rank_baselines(
    data_dir: Path, split: SplitName, most: int | None, paths: Mapping[str, Path]
) -> None:
    """Ranks the targets of a split by baselines, and writes them.

    Baselines for which the dataset is too large are left out.

    Args:
        data_dir: the dataset folder.
        split: the split that has the targets.
        most: rank only this many users, always the same ones.
        paths: the file to write, by the baseline's name.
    """
    dataset = of_some_users(open_dataset(data_dir), most)
    users, _ = targets_of(dataset, split)
    for name, path in paths.items():
        if why_left_out(name, dataset) is not None:
            continue
        (both,) = baseline_ranks(name, [(dataset, split)], say)
        unknown = np.full(len(users), np.nan)
        save_ranks(path, UserRanks(users, both[:, 0], both[:, 1], unknown))
