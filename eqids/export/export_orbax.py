"""Writes checkpoints for Orbax, and makes checkpoints of what Orbax wrote."""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from convert.orbax_eqids import LLAMA, describe_export, is_export, read_export
from convert.orbax_write import check_orbax, write_orbax
from convert.outputs import Progress, Weight, check_new, output_folder
from eqids.checkpoints import LOCK, Manifest, read_manifest, resolve, save
from eqids.checkpoints.reader import Reader
from eqids.config import (
    EqidsToOrbaxConfig,
    OrbaxToEqidsConfig,
    RunConfig,
    from_json,
    require,
)
from eqids.export.checkpoint_llama import llama_of_checkpoint
from eqids.export.import_flax import ImportedCheckpoint, flax_checkpoint
from eqids.export.trained_arrays import TrainedArrays
from eqids.io.digests import ReportBytes
from sharding import LazyArray, Slices

_Llama = AbstractContextManager[tuple[Mapping[str, Weight], Path | None]]
"""The tensors of a Llama, while its files are open, and their folder."""


def eqids_to_orbax(
    config: EqidsToOrbaxConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a checkpoint as a tree that Orbax restores by name.

    Args:
        config: what to write, and where.
        advance: called for every part of an array that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: there is no such checkpoint, or it is damaged; Orbax is missing; or
            the output exists already.
    """
    check_new(config.output)
    check_orbax()
    path = resolve(config.input)
    manifest = read_manifest(path)
    with Reader(path, manifest) as reader:
        trained = TrainedArrays(reader, manifest)
        weights = trained.by_name(optimizer=config.optimizer)
        _check_llama(config, path, manifest)
        llama: _Llama = nullcontext(({}, None))
        if config.with_llama:
            llama = llama_of_checkpoint(path, manifest, trained, config.llama_path)
        with llama as (tensors, _), output_folder(config.output, advance) as new:
            named = tensors.items()
            weights |= {LLAMA + name.replace(".", "/"): one for name, one in named}
            new.expect(weights)
            new.write_folder_with(
                lambda folder, report: write_orbax(folder, weights, report)
            )
            describe_export(new, manifest, weights)
    return new.digests


def _check_llama(config: EqidsToOrbaxConfig, path: Path, manifest: Manifest) -> None:
    """Refuses --with_llama for a run that trained its Llama, which the tree holds."""
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    require(
        not config.with_llama or run.strategy != "all",
        f"--with_llama is for a frozen Llama, and {path} was trained with --train all: "
        "the tree holds its Llama under params/llama without this flag",
    )


def orbax_to_eqids(
    config: OrbaxToEqidsConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Makes a checkpoint of a tree of Orbax.

    The tree is what `eqids_to_orbax` wrote, which becomes the same checkpoint to the
    bit, or a model in Flax, see `flax_checkpoint`.

    Args:
        config: what to read, and where to write.
        advance: called for every part of an array that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: the tree is damaged, partial, or another one; or the output exists
            already.
    """
    check_new(config.output)
    if is_export(config.input):
        _check_unused(config)
        export = read_export(config.input)
        found = ImportedCheckpoint(export.step, export.meta, export.arrays)
    else:
        found = flax_checkpoint(config)
    run = {**found.meta["config"], "checkpoint_dir": str(config.output.absolute())}
    meta = {**found.meta, "config": run}
    sizes = (math.prod(x.shape) * x.dtype.itemsize for x in found.arrays.values())
    total = sum(sizes)

    def write(folder: Path, _: ReportBytes) -> None:
        arrays = _reported(found.arrays, lambda num_bytes: advance(num_bytes, total))
        save(folder, found.step, arrays, meta)
        (folder / LOCK).unlink(missing_ok=True)

    with output_folder(config.output, advance) as new:
        new.write_folder_with(write)
    return new.digests


def _check_unused(config: OrbaxToEqidsConfig) -> None:
    """Refuses flags for models in Flax."""
    unset = OrbaxToEqidsConfig(config.input, config.output)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        require(
            value == getattr(unset, field.name),
            f"--{field.name} is for a model in Flax, and {config.input} is a folder of "
            "eqids-to-orbax, which says all; wanted the command without this flag",
        )


def _reported(
    arrays: Mapping[str, LazyArray], report: ReportBytes
) -> dict[str, LazyArray]:
    """Returns arrays that report the bytes that are read of them."""

    def of(array: LazyArray) -> LazyArray:
        def read(box: Slices) -> np.ndarray:
            values = array.read(box)
            report(values.nbytes)
            return values

        return LazyArray(array.shape, array.dtype, read)

    # Of a dictionary jax would sort the keys.
    return OrderedDict((name, of(array)) for name, array in arrays.items())
