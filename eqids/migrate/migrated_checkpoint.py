"""A checkpoint of an older version of a catalog, remapped to the present one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqids.checkpoints import Manifest, read_manifest, resolve, restore, save
from eqids.config import require, to_json
from eqids.data import Dataset
from eqids.data.catalog.lineage import Lineage
from eqids.migrate.fit_new_clusters import (
    MigratedSoftmax,
    cluster_ancestors,
    fit_new_clusters,
)
from eqids.migrate.remap import remap_arrays

_PARAMS = "params/"


@dataclass(frozen=True)
class MigratedCheckpoint:
    """A checkpoint for the present version of a catalog, in memory."""

    step: int
    """The training step."""
    meta: Mapping[str, Any]
    """What its manifest will record, before it is evaluated."""
    arrays: dict[str, np.ndarray]
    """By their names in the checkpoint."""
    old: MigratedSoftmax
    """The softmax before."""
    lineage: Lineage
    """Of the catalog."""
    version: int
    """Of the catalog, before."""

    def fitted(
        self, queries: Float[np.ndarray, "query item_width"]
    ) -> "MigratedCheckpoint":
        """Returns it with the changed clusters fitted; see `fit_new_clusters`."""
        valid = self.lineage.valid_at(self.lineage.version)
        new = MigratedSoftmax.of(self.arrays, _PARAMS, valid)
        ancestors = cluster_ancestors(self.lineage, self.version)
        found = fit_new_clusters(self.old, new, *ancestors, queries)
        names = (
            f"{_PARAMS}softmax/{name}" for name in ("cluster_table", "cluster_bias")
        )
        arrays = {**self.arrays, **dict(zip(names, found, strict=True))}
        return dataclasses.replace(self, arrays=arrays)

    def save(self, folder: Path, validation: Mapping[str, Any] | None = None) -> Path:
        """Writes it as the step of a new run; returns the checkpoint's folder.

        Args:
            folder: the run's.
            validation: the evaluation of these weights, if there is one.

        Raises:
            UserError: the folder already has this step, or it could not be written.
        """
        config = self.meta["config"] | {"checkpoint_dir": str(folder)}
        score = validation and validation["filtered"]["ndcg@10"]
        meta = {**self.meta, "config": config, "validation": validation, "score": score}
        return save(folder, self.step, self.arrays, meta)


def migrate_checkpoint(checkpoint: Path, dataset: Dataset) -> MigratedCheckpoint:
    """Reads a checkpoint of any version of a catalog for the present version.

    The step, the optimizer and all arrays without items are kept. Arrays of items are
    held in memory twice, the others once.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        dataset: with the present version of the catalog.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it belongs to another
            catalog.
    """
    path = resolve(checkpoint)
    manifest = read_manifest(path)
    lineage, version = dataset.lineage, version_of(path, manifest, dataset)
    like = {
        name: np.broadcast_to(np.zeros((), jnp.dtype(record.dtype)), record.shape)
        for name, record in manifest.arrays.items()
    }
    stored = restore(path, like)
    return MigratedCheckpoint(
        step=manifest.step,
        meta=_meta(manifest.meta, dataset),
        arrays=remap_arrays(stored, lineage, version, _PARAMS),
        old=MigratedSoftmax.of(stored, _PARAMS, lineage.valid_at(version)),
        lineage=lineage,
        version=version,
    )


def version_of(path: Path, manifest: Manifest, dataset: Dataset) -> int:
    """Returns the version of a dataset's catalog that a checkpoint was made with.

    Args:
        path: of the checkpoint, for messages.
        manifest: the checkpoint's.
        dataset: whose catalog.

    Raises:
        UserError: the checkpoint was made with none of them.
    """
    wanted = manifest.meta["catalog_id"]
    ids = [*dataset.lineage.catalog_ids, dataset.info.catalog_id]
    require(
        wanted in ids,
        f"{path} was trained on another catalog than {dataset.path} has, in any of its "
        f"{len(ids)} versions; wanted --data_dir with the dataset that it was trained "
        f"on ({manifest.meta['config']['data_dir']}), or with one that continues it "
        "(python -m eqids.prepare --catalog)",
    )
    return ids.index(wanted) + 1


def _meta(meta: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Returns what a run on the present version would record."""
    sizes = {"num_clusters": dataset.info.num_clusters}
    if meta["model"]["num_successors"]:
        sizes["num_successors"] = dataset.successors.width
    return {
        **meta,
        "config": meta["config"] | {"data_dir": str(dataset.path)},
        "model": meta["model"] | sizes,
        "catalog_id": dataset.info.catalog_id,
        "dataset_hash": dataset.info.dataset_hash,
        "protocol": to_json(dataset.info.protocol),
    }
