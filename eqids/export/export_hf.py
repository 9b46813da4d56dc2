"""Exports a checkpoint as a Hugging Face folder: a Llama, and EqIDs' own tensors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from convert.hf_config import base_config, hf_config
from convert.hf_eqids import FORMAT_VERSION, INFO_FILE, TENSORS_FILE
from convert.hf_files import shard_paths
from convert.hf_write import copy_companions, write_llama
from convert.hub_upload import CARD
from convert.outputs import FLOATS, OutputFolder, Progress, output_folder
from eqids.checkpoints import Manifest, read_manifest, resolve
from eqids.checkpoints.reader import Reader
from eqids.config import EqidsToHfConfig, ModelConfig, RunConfig, from_json, to_json
from eqids.data.batches.item_texts import TOKENIZER_FILE
from eqids.export.card_facts import card_facts
from eqids.export.checkpoint_llama import llama_of_checkpoint, sizes_of_checkpoint
from eqids.export.model_card import model_card
from eqids.export.trained_arrays import LLAMA, TrainedArrays
from eqids.io.digests import combined_sha256, file_sha256


def eqids_to_hf(
    config: EqidsToHfConfig, advance: Progress = lambda done, total: None
) -> dict[str, str]:
    """Writes a checkpoint as a Hugging Face folder, with items and heads beside it,
    and a model card.

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
    sizes = sizes_of_checkpoint(path, manifest)
    dtype = None if config.dtype is None else FLOATS[config.dtype]
    with Reader(path, manifest) as reader:
        trained = TrainedArrays(reader, manifest)
        llama = llama_of_checkpoint(path, manifest, trained, config.llama_path)
        with (
            llama as (weights, folder),
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
            # It replaces the README.md of the pretrained Llama.
            new.write(CARD, _card(config, path, manifest, sizes).encode())
            write_llama(new, weights, content, dtype, config.max_shard_bytes)
            new.write_tensors(TENSORS_FILE, beside)
            new.write_json(INFO_FILE, _info(manifest, sizes, new))
    return new.digests


def _copy_tokenizer(new: OutputFolder, path: Path, manifest: Manifest) -> None:
    """Copies the tokenizer of --tokenizer, if the run had one and it still exists."""
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    given = run.flags.tokenizer
    if run.tokens is None or given is None:
        return
    file = given / TOKENIZER_FILE if given.is_dir() else given
    if file.is_file() and file_sha256(file) == run.tokens.tokenizer:
        new.write(TOKENIZER_FILE, file.read_bytes())


def _card(
    config: EqidsToHfConfig, path: Path, manifest: Manifest, sizes: ModelConfig
) -> str:
    run = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    llama = config.llama_path or run.flags.llama_path
    name, licence = config.output.name, config.license
    return model_card(card_facts(name, licence, path, manifest, run, sizes, llama))


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
