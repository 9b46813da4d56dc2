"""The result of every user, to test differences between models with other tools."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from eqids.data import Dataset
from eqids.data.files import write_parquet
from eqids.fit.evaluation import Split, targets_of
from eqids.io.atomic import new_file


def write_user_results(
    path: Path,
    dataset: Dataset,
    split: Split,
    ranked: Float[np.ndarray, "user columns"],
    baselines: Mapping[str, Float[np.ndarray, "user 2"]],
) -> None:
    """Writes a row for each user that a split evaluates.

    The columns are user, item (the target), history_length, rank and rank_unfiltered
    (inf if the target is missed), log_prob if it is known, and BASELINE_rank.

    Args:
        path: the Parquet file to write.
        dataset: the dataset with the targets.
        split: the split that has them.
        ranked: ranks, filtered and unfiltered, and log-probabilities if there are any;
            rows as `targets_of` has users.
        baselines: ranks of baselines, filtered and unfiltered, by name.

    Raises:
        UserError: the file could not be written.
    """
    users, positions = targets_of(dataset, split)
    items = dataset.items().set_index("slot")["item"]
    target = dataset.slots[dataset.offsets[users] + positions]
    columns = {
        "user": pa.Array.from_pandas(dataset.users()["user"].iloc[users]),
        "item": pa.Array.from_pandas(items.loc[target]),
        "history_length": pa.array(positions),
        "rank": pa.array(ranked[:, 0]),
        "rank_unfiltered": pa.array(ranked[:, 1]),
    }
    if ranked.shape[1] > 2:
        columns["log_prob"] = pa.array(ranked[:, 2])
    for name, ranks in baselines.items():
        columns[f"{name}_rank"] = pa.array(ranks[:, 0].astype(np.float64))
    with new_file(path) as partial:
        write_parquet(partial, pa.table(columns))
