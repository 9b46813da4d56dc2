"""Checks that a checkpoint can be migrated, before anything is written."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from eqids.checkpoints import Manifest, read_manifest, resolve, steps
from eqids.config import RunConfig, from_json, require
from eqids.data import Dataset
from eqids.migrate.migrated_checkpoint import version_of


@dataclass(frozen=True)
class MigrationPlan:
    """Which checkpoint is migrated, and to where."""

    checkpoint: Path
    """DIR/STEP of the checkpoint to migrate."""
    target: Path
    """DIR/STEP of the checkpoint to write."""
    version: int
    """Version of the catalog that the checkpoint was made with."""
    manifest: Manifest
    """Of the checkpoint to migrate."""
    config: RunConfig
    """Of its run."""


def plan_migration(
    checkpoint: Path, output: Path | None, dataset: Dataset, version: int
) -> MigrationPlan:
    """Plans to migrate a checkpoint to another version of its catalog.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        output: the new run's folder, by default beside the old one: DIR-v2.
        dataset: with the present version of the catalog.
        version: the version of the catalog to migrate to.

    Raises:
        UserError: there is no such checkpoint, it belongs to another catalog or
            already to that version; or the output cannot be written, or holds the same
            step or steps of another version.
    """
    path = resolve(checkpoint)
    manifest = read_manifest(path)
    was = version_of(path, manifest, dataset)
    require(was < version, f"{path} is of version {version} of the catalog already")
    if output is None:
        # A path like '.' does not hold the folder's name.
        named = len(path.parts) > 1 and ".." not in path.parts
        folder = (path if named else path.resolve()).parent
        run = re.sub(r"-v\d+$", "", folder.name)
        output = folder.with_name(f"{run}-v{version}")
    target = output / str(manifest.step)
    require(not target.exists(), f"{target} exists already, wanted another --output")
    is_present = version == dataset.info.catalog_version
    check_output_folder(output, dataset.info.catalog_id if is_present else None)
    config = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    return MigrationPlan(path, target, was, manifest, config)


def check_output_folder(output: Path, catalog_id: str | None) -> None:
    """Requires that a folder can hold a run of one version of a catalog.

    Args:
        output: the folder.
        catalog_id: of that version, or None if it does not exist yet.

    Raises:
        UserError: it cannot be written, or holds steps of another version.
    """
    real = output.resolve()
    existing = next(above for above in (real, *real.parents) if above.exists())
    require(
        existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
        f"{output} cannot be written: {existing} is not a folder that can be written "
        "to; wanted another --output",
    )
    for step in steps(output):
        found = read_manifest(output / str(step)).meta["catalog_id"]
        require(
            found == catalog_id,
            f"{output} holds step {step} of another version of the catalog, wanted "
            "another --output",
        )
