"""Records and ranks of runs of the quality bench, without the runs."""

from dataclasses import replace
from typing import Any

import numpy as np

from bench.quality_runs import RunRecord
from bench.quality_settings import Setting
from bench.user_ranks import UserRanks


def ranks(*filtered: float) -> UserRanks:
    """These ranks of users, each one worse among all items."""
    values = np.array(filtered)
    users = np.arange(len(values))
    return UserRanks(users, values, values + 1, np.full(len(values), 2.0))


def record(**changes: Any) -> RunRecord:
    """The record of a run, with changes."""
    return replace(
        RunRecord(
            train=("--item_width", "8"), seed=0, dataset_hash="d", code="c",
            commit=None, seconds=90.0, busy_cores=0.1, steps=10, best_step=5,
            parameters=12345, cpu="a CPU", cores=2, versions=("jax 1",),
        ),
        **changes,
    )  # fmt: skip


WIDE = Setting("wide", ("--item_width", "8"), "wider")
OTHER = Setting("other")
