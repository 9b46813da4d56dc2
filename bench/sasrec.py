"""RecTools' SASRec (Kang & McAuley 2018), a peer of nano's training."""

import importlib
import importlib.util
import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd

from bench.contender import Contender
from bench.train_torch import torch_with_threads
from eqids.data import Dataset

SASREC = "RecTools' SASRec"


def has_rectools() -> bool:
    """Returns whether RecTools is installed, with torch and Lightning."""
    names = "rectools", "torch", "pytorch_lightning"
    return all(importlib.util.find_spec(name) is not None for name in names)


def sasrec_epochs(
    work: str, dataset: Dataset, seq_len: int, parameters: int, seed: int
) -> Contender:
    """One epoch of `SASRecModel.fit_partial`: its loader, its step, its trainer.

    All settings are RecTools' defaults, but for the length of histories, which is ours,
    and the width, which is chosen for the number of parameters.

    Args:
        work: its name in tables.
        dataset: the dataset whose training events are used.
        seq_len: positions in a row.
        parameters: number of parameters of the model, roughly.
        seed: seed of weights and batches.
    """
    torch_with_threads().manual_seed(seed)
    rectools = importlib.import_module("rectools.dataset")
    models = importlib.import_module("rectools.models")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|rectools|torch")
    width = width_for(dataset.info.num_items + 1 + seq_len, parameters)
    model = models.SASRecModel(n_factors=width, session_max_len=seq_len)
    events = rectools.Dataset.construct(training_events(dataset))

    def run() -> None:
        model.fit_partial(events, min_epochs=1, max_epochs=1)

    run()
    found = sum(p.numel() for p in model.torch_model.parameters())
    # It trains on each user's last positions; all but the first are targets.
    targets = np.clip(dataset.train_length - 1, 0, seq_len).sum()
    facts = {"targets": float(targets), "parameters": float(found)}
    return Contender(SASREC, work, run, facts=facts, device="cpu")


def width_for(rows: int, parameters: int, blocks: int = 2) -> int:
    """Returns the width, a multiple of 4 heads, for about this many parameters.

    Args:
        rows: rows of the tables of items and positions.
        parameters: the number of parameters.
        blocks: number of blocks; each has four matrices of attention and two more.
    """
    widths = range(4, 1024, 4)
    return min(widths, key=lambda n: abs(rows * n + blocks * 6 * n * n - parameters))


def training_events(dataset: Dataset) -> Any:
    """Returns the training events as RecTools reads them, in their order."""
    parts = [
        dataset.history(user)[: dataset.train_length[user]]
        for user in range(dataset.num_users)
    ]
    order = np.concatenate([np.arange(len(part)) for part in parts])
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(parts)), dataset.train_length),
            "item_id": np.concatenate(parts),
            "weight": 1,
            "datetime": pd.Timestamp(0) + pd.to_timedelta(order, unit="s"),
        }
    )
