"""Exports a checkpoint as a Hugging Face folder: a Llama, and EqIDs' own tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.hf_config import base_config, hf_config
from convert.hf_eqids import FORMAT_VERSION, INFO_FILE, TENSORS_FILE
from convert.hf_files import shard_paths, tensors
from convert.hf_write import (
    HEAD,
    arrays_of,
    copy_companions,
    llama_weights,
    merged,
    of_slice,
    write_llama,
)
from convert.outputs import FLOATS, OutputFolder, Progress, Weight, output_folder
from eqids.checkpoints import Manifest, read_manifest, resolve
from eqids.checkpoints.reader import Reader
from eqids.config import (
    EqidsToHfConfig,
    ModelConfig,
    RunConfig,
    from_json,
    to_json,
)
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.export.trained_arrays import LLAMA, TrainedArrays
from eqids.inference.open import open_checkpoint
from eqids.io.digests import combined_sha256, file_sha256
from eqids.model.lora import FIELDS
from eqids.runs.frozen_llama import check_base
from eqids.runs.recorded_folders import llama_of_run
from sharding import Placement


def eqids_to_hf(
    config: EqidsToHfConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a checkpoint as a Hugging Face folder, with items and heads beside it.

    A frozen Llama is copied from its folder, every tensor to the bit. LoRA is merged in
    float32, and the Llama is then written in float32.

    Args:
        config: what to write, and where.
        advance: called for every part of a tensor that was written.

    Returns:
        The SHA-256 of every file, by name.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it was trained over
            another Llama; or the output exists already.
    """
    path = resolve(config.input)
    manifest = read_manifest(path)
    sizes = _sizes(path, manifest)
    dtype = None if config.dtype is None else FLOATS[config.dtype]
    with Reader(path, manifest) as reader:
        trained = TrainedArrays(reader, manifest)
        with (
            checkpoint_llama(path, manifest, trained, config.llama_path) as (
                weights,
                folder,
            ),
            output_folder(config.output, advance) as new,
        ):
            stored = dtype or next(iter(weights.values())).dtype
            beside = trained.weights(without=(LLAMA,))
            new.expect(beside)
            content = hf_config(sizes.llama, str(stored))
            if folder is not None and (folder / "config.json").is_file():
                changed = dtype is not None or sizes.lora is not None
                content = base_config(folder, str(stored) if changed else None)
                copy_companions(new, folder)
            _copy_tokenizer(new, path, manifest)
            write_llama(new, weights, content, dtype, config.max_shard_bytes)
            new.write_tensors(TENSORS_FILE, beside)
            new.write_json(INFO_FILE, _info(manifest, sizes, new))
    return new.digests


@contextmanager
def checkpoint_llama(
    path: Path, manifest: Manifest, arrays: TrainedArrays, llama_path: Path | None
) -> Iterator[tuple[dict[str, Weight], Path | None]]:
    """Yields the tensors of a checkpoint's Llama, and the folder that it came from.

    Args:
        path: the checkpoint, for messages.
        manifest: the checkpoint's.
        arrays: what was trained.
        llama_path: the folder, if it was moved.

    Yields:
        The tensors by their names of Hugging Face; and the folder, or None if the run
        started from random weights or the folder is not needed and does not exist.
    """
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    sizes = _sizes(path, manifest)
    folder, base = llama_path or run.flags.llama_path, manifest.meta["base"]
    float32 = np.dtype(np.float32)
    if run.strategy == "all" and sizes.llama.tied:
        exists = folder is not None and folder.is_dir()
        weights = llama_weights(sizes.llama, float32, arrays.of_llama)
        yield weights, folder if exists else None
        return
    if base is None:
        # A frozen random Llama is made again from the run's seed.
        opened = open_checkpoint(path, None, None, Placement(None, None))
        llama = opened.model.llama
        stored = np.dtype(llama.embedding.dtype)
        yield llama_weights(sizes.llama, stored, arrays_of(llama)), None
        return
    folder = check_base(base, llama_of_run(path, run, llama_path))
    with tensors(folder) as found:
        weights = {key: of_slice(found[key]) for key in found}
        if run.strategy == "all":
            # The language-model head is never trained, and in no checkpoint.
            trained = llama_weights(sizes.llama, float32, arrays.of_llama)
            trained[HEAD] = weights[HEAD].as_dtype(float32)
            weights = trained
        elif sizes.lora is not None:
            scale = sizes.lora.alpha / sizes.lora.rank
            scales = {FIELDS[target]: scale for target in sizes.lora.targets}
            weights = merged(weights, sizes.llama, scales, arrays.of_llama)
            weights = {key: one.as_dtype(float32) for key, one in weights.items()}
        yield weights, folder


def _copy_tokenizer(new: OutputFolder, path: Path, manifest: Manifest) -> None:
    """Copies the tokenizer of --tokenizer, if the run had one and it still exists."""
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    given = run.flags.tokenizer
    if run.tokens is None or given is None:
        return
    file = given / TOKENIZER_FILE if given.is_dir() else given
    if file.is_file() and file_sha256(file) == run.tokens.tokenizer:
        new.write(TOKENIZER_FILE, file.read_bytes())


def _sizes(path: Path, manifest: Manifest) -> ModelConfig:
    """Returns the model's sizes; a Llama without its own head counts as tied."""
    sizes = from_json(ModelConfig, manifest.meta["model"], f"{path}: model")
    if manifest.meta["base"] is not None:
        return sizes
    return replace(sizes, llama=replace(sizes.llama, tied=True))


def _info(manifest: Manifest, sizes: ModelConfig, new: OutputFolder) -> dict[str, Any]:
    """Returns the content of eqids.json, which describes the tensors."""
    meta = manifest.meta
    names = ("catalog_id", "dataset_hash", "protocol", "base", "score", "versions")
    shards = [new.digests[path.name] for path in shard_paths(new.path)]
    return {
        "format_version": FORMAT_VERSION,
        "step": manifest.step,
        "saved": manifest.saved,
        "llama": combined_sha256(shards),
        "tensors": new.digests[TENSORS_FILE],
        **{name: meta[name] for name in names},
        "model": to_json(replace(sizes, lora=None)),
        "config": meta["config"],
    }
