"""Checks that a checkpoint, or a folder of `eqids-to-hf`, has the catalog of a
dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.hf_eqids import Pair
from eqids.config import require
from eqids.data import Dataset


def check_catalog(path: Path, meta: Mapping[str, Any], dataset: Dataset) -> None:
    """Raises UserError if a checkpoint was trained on another catalog than a dataset's.

    Args:
        path: the path of the checkpoint, for messages.
        meta: what it records.
        dataset: the dataset that it is to be used with.
    """
    check_catalog_version(path, meta, dataset)
    require(
        meta["catalog_id"] == dataset.info.catalog_id,
        other_catalog(path, meta, dataset.path),
    )


def check_catalog_version(
    path: Path, meta: Mapping[str, Any], dataset: Dataset
) -> None:
    """Raises UserError if a checkpoint has an older version of a dataset's catalog."""
    require(
        meta["catalog_id"] not in dataset.lineage.catalog_ids,
        f"{path} was trained on an older version of the catalog of {dataset.path}; "
        f"bring it up to date: python -m eqids.catalog migrate --data_dir "
        f"{dataset.path} --checkpoint {path}",
    )


def check_pair_catalog(pair: Pair, dataset: Dataset) -> None:
    """Raises UserError if a pair was trained on another catalog than a dataset's."""
    require(
        pair.meta["catalog_id"] not in dataset.lineage.catalog_ids,
        f"{pair.folder} was trained on an older version of the catalog of "
        f"{dataset.path}; bring its checkpoint up to date (python -m eqids.catalog "
        "migrate) and convert that again (python -m convert eqids-to-hf)",
    )
    check_catalog(pair.folder, pair.meta, dataset)


def other_catalog(path: Path, meta: Mapping[str, Any], data_dir: Path) -> str:
    """Returns the message that a checkpoint has another catalog than a dataset.

    Args:
        path: the path of the checkpoint.
        meta: what it records.
        data_dir: the folder of the dataset.
    """
    was = Path(meta["config"]["data_dir"])
    same = was.resolve() == data_dir.resolve()
    old = "a copy of the dataset as it was" if same else str(was)
    return (
        f"{path} was trained on another catalog than that of {data_dir}, in which "
        f"items have other slots; wanted the dataset that it was trained on, see "
        f"--data_dir (it was {was}), or new data prepared with the slots of the old: "
        f"python -m eqids.prepare --catalog OLD ({old}), then python -m eqids.catalog "
        "migrate for the checkpoint"
    )
