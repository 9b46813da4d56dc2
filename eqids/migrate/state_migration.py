"""A checkpoint of an earlier version of a catalog, brought to the present one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqids.checkpoints import (
    Manifest,
    leaf_name,
    read_manifest,
    resolve,
    restore,
    save,
)
from eqids.config import require, to_json
from eqids.data import Dataset
from eqids.data.catalog.lineage import Lineage
from eqids.migrate.new_clusters import Head, heirs, refit
from eqids.migrate.remap import Arrays, brought
from eqids.model import EqIDs

_PARAMS = "params/"


@dataclass(frozen=True)
class Migrated:
    """A checkpoint for the present version of a catalog, in memory."""

    step: int
    """The training step."""
    meta: Mapping[str, Any]
    """What it says of itself: a run on the present version, not evaluated yet."""
    arrays: Arrays
    """By the names under which it stores them."""
    old: Head
    """Its softmax before."""
    lineage: Lineage
    """Of the catalog."""
    version: int
    """Of the catalog, before."""

    def fitted(self, queries: Float[np.ndarray, "query item_width"]) -> "Migrated":
        """Returns it with the changed clusters fitted to queries, see `refit`."""
        valid = self.lineage.valid_at(self.lineage.version)
        new = Head.of(self.arrays, _PARAMS, valid)
        found = refit(self.old, new, *heirs(self.lineage, self.version), queries)
        names = (
            f"{_PARAMS}softmax/{name}" for name in ("cluster_table", "cluster_bias")
        )
        arrays = {**self.arrays, **dict(zip(names, found, strict=True))}
        return dataclasses.replace(self, arrays=arrays)

    def save(self, folder: Path, validation: Mapping[str, Any] | None = None) -> Path:
        """Writes it as the step of a new run; returns the checkpoint's folder.

        Args:
            folder: the run's.
            validation: the evaluation of these weights, if there was one.

        Raises:
            UserError: the folder has the step already, or the disk refused.
        """
        config = self.meta["config"] | {"checkpoint_dir": str(folder)}
        score = validation and validation["filtered"]["ndcg@10"]
        meta = {**self.meta, "config": config, "validation": validation, "score": score}
        return save(folder, self.step, self.arrays, meta)


def migrate(checkpoint: Path, dataset: Dataset) -> Migrated:
    """Brings a checkpoint of any version of a catalog to the present version.

    Step, optimizer and all that is not of the catalog are carried along. What is of
    the catalog is held in memory twice, the rest once.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        dataset: with the present version of the catalog.

    Raises:
        UserError: no such checkpoint, a damaged one, or one of another catalog.
    """
    path = resolve(checkpoint)
    manifest = read_manifest(path)
    lineage, version = dataset.lineage, version_of(path, manifest, dataset)
    like = {
        name: np.broadcast_to(np.zeros((), jnp.dtype(record.dtype)), record.shape)
        for name, record in manifest.arrays.items()
    }
    stored = restore(path, like)
    return Migrated(
        step=manifest.step,
        meta=_meta(manifest.meta, dataset),
        arrays=brought(stored, lineage, version, _PARAMS),
        old=Head.of(stored, _PARAMS, lineage.valid_at(version)),
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
        UserError: it is none of them.
    """
    wanted = manifest.meta["catalog_id"]
    ids = [*dataset.lineage.catalog_ids, dataset.info.catalog_id]
    require(
        wanted in ids,
        f"{path} was trained on a catalog that is none of the {len(ids)} versions of "
        f"that of {dataset.path}; wanted the dataset that it was trained on, or one "
        "that goes on from it (python -m eqids.prepare --catalog), see --data_dir: it "
        f"was {manifest.meta['config']['data_dir']}",
    )
    return ids.index(wanted) + 1


def migrate_model(model: EqIDs, lineage: Lineage, version: int) -> EqIDs:
    """Returns a model for the present version of a catalog, as `migrate` makes it.

    Args:
        model: for an earlier version.
        lineage: of the catalog.
        version: the model's.
    """
    named = {
        leaf_name(route): np.asarray(leaf)
        for route, leaf in jax.tree_util.tree_leaves_with_path(model)
    }
    valid = lineage.valid_at(lineage.version)
    arrays = {**brought(named, lineage, version), "softmax/valid": valid}
    config = dataclasses.replace(model.config, num_clusters=len(valid))
    shapes = eqx.filter_eval_shape(EqIDs, config, key=jax.random.key(0))
    return jax.tree.unflatten(
        jax.tree.structure(shapes), [jnp.asarray(arrays[name]) for name in named]
    )


def _meta(meta: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """What a run on the present version would record."""
    return {
        **meta,
        "config": meta["config"] | {"data_dir": str(dataset.path)},
        "model": meta["model"] | {"num_clusters": dataset.info.num_clusters},
        "catalog_id": dataset.info.catalog_id,
        "dataset_hash": dataset.info.dataset_hash,
        "protocol": to_json(dataset.info.protocol),
    }
