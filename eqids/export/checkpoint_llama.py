"""The tensors of a checkpoint's Llama, each read when it is written elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from convert.hf_files import tensors
from convert.hf_write import HEAD, arrays_of, llama_weights, merged, of_slice
from convert.outputs import Weight
from eqids.checkpoints import Manifest
from eqids.config import ModelConfig, RunConfig, from_json
from eqids.export.trained_arrays import TrainedArrays
from eqids.inference.open import open_checkpoint
from eqids.model.lora import FIELDS
from eqids.runs.frozen_llama import check_base
from eqids.runs.recorded_folders import llama_of_run
from sharding import Placement


def sizes_of_checkpoint(path: Path, manifest: Manifest) -> ModelConfig:
    """Returns the model's sizes; a Llama without its own head counts as tied."""
    sizes = from_json(ModelConfig, manifest.meta["model"], f"{path}: model")
    if manifest.meta["base"] is not None:
        return sizes
    return replace(sizes, llama=replace(sizes.llama, tied=True))


@contextmanager
def llama_of_checkpoint(
    path: Path,
    manifest: Manifest,
    arrays: TrainedArrays,
    llama_path: Path | None = None,
    data_dir: Path | None = None,
    rounded: np.dtype | None = None,
) -> Iterator[tuple[dict[str, Weight], Path | None]]:
    """Yields the tensors of a checkpoint's Llama, and the folder that it came from.

    LoRA is merged in float32.

    Args:
        path: the checkpoint.
        manifest: the checkpoint's.
        arrays: what was trained.
        llama_path: the Llama's folder, if it was moved.
        data_dir: the dataset folder, if it was moved.
        rounded: a dtype that the folder's tensors are cast to, before LoRA is merged;
            by default none.

    Yields:
        The tensors by their names of Hugging Face; and the folder, or None if the run
        started from random weights or the folder is not needed and does not exist.

    Raises:
        UserError: the folder is missing, or holds other weights than the run's.
    """
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    sizes = sizes_of_checkpoint(path, manifest)
    folder, base = llama_path or run.flags.llama_path, manifest.meta["base"]
    float32 = np.dtype(np.float32)
    if run.strategy == "all" and sizes.llama.tied:
        exists = folder is not None and folder.is_dir()
        weights = llama_weights(sizes.llama, float32, arrays.of_llama)
        yield weights, folder if exists else None
        return
    if base is None:
        # A frozen random Llama is made again from the run's seed.
        opened = open_checkpoint(path, data_dir, None, Placement(None, None))
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
            yield weights, folder
            return
        if rounded is not None:
            weights = {key: one.as_dtype(rounded) for key, one in weights.items()}
        if sizes.lora is not None:
            scale = sizes.lora.alpha / sizes.lora.rank
            scales = {FIELDS[target]: scale for target in sizes.lora.targets}
            weights = merged(weights, sizes.llama, scales, arrays.of_llama)
            weights = {key: one.as_dtype(float32) for key, one in weights.items()}
        yield weights, folder
