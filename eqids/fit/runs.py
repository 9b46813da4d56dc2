"""A run's identity: what its checkpoints record, and what a resume must agree with."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from eqids.config import (
    LLAMA_PRESETS,
    LlamaConfig,
    ModelConfig,
    TrainConfig,
    UserError,
    require,
    to_json,
)
from eqids.data import Dataset
from eqids.data.batches import NUM_GAPS
from eqids.fit.checkpoint import Manifest, read_manifest, restore, steps
from eqids.fit.step import State
from eqids.model import EqIDs, Llama

RESULT_FILE = "result.json"

_FREE = frozenset(
    "checkpoint_dir load_checkpoint stop_at log_every eval_every save_every keep "
    "early_stop tensorboard layout estimate_memory_only remat data_dir freeze_llama "
    "llama_path from_scratch".split()
)
"""Fields that a resumed run may change: they do not touch what is learned, or (data
and Llama) are held to by hash and not by path."""


def model_config(
    config: TrainConfig, dataset: Dataset, llama: Llama | None
) -> ModelConfig:
    """Returns the model's sizes: from the flags, the catalog and the Llama."""
    assert config.item_width is not None and config.dropout is not None
    return ModelConfig(
        llama=LLAMA_PRESETS[config.llama_size] if llama is None else llama.config,
        num_clusters=dataset.info.num_clusters,
        room=dataset.info.room,
        item_width=config.item_width,
        adapter=config.adapter,
        tied_items=config.tied_items,
        num_gaps=NUM_GAPS,
        dropout=config.dropout,
    )


def initial_model(
    config: ModelConfig, dataset: Dataset, llama: Llama | None, key: PRNGKeyArray
) -> EqIDs:
    """Returns the model that a run starts from: random, but for a pretrained Llama."""
    model = EqIDs(
        config, valid=dataset.item_valid, counts=dataset.item_counts, key=key
    )
    return model if llama is None else eqx.tree_at(lambda m: m.llama, model, llama)


def run_meta(
    config: TrainConfig,
    model: ModelConfig,
    dataset: Dataset,
    base: str | None,
    validation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns what a checkpoint records beside its arrays.

    Args:
        config: the run's, resolved.
        model: the model's.
        dataset: what it trains on.
        base: fingerprint of the pretrained Llama's files, if there is one.
        validation: the evaluation of these weights, if there was one.
    """
    return {
        "config": to_json(config),
        "model": to_json(model),
        "catalog_id": dataset.info.catalog_id,
        "dataset_hash": dataset.info.dataset_hash,
        "protocol": to_json(dataset.info.protocol),
        "base": base,
        "seed": config.seed,
        "score": validation and validation["filtered"]["ndcg@10"],
        "validation": validation,
        "versions": {p: version(p) for p in ("eqids", "jax", "equinox", "optax")},
    }


def resume(
    folder: Path, like: State, meta: Mapping[str, Any]
) -> tuple[State, Manifest] | None:
    """Returns the newest state in a run's folder, or None where it holds none.

    Args:
        folder: the run's.
        like: a state of this run, which says where arrays go.
        meta: what this run would record; a folder that differs is refused.

    Raises:
        UserError: the folder holds another run; it names the first difference.
    """
    found = steps(folder)
    if not found:
        return None
    path = folder / str(found[-1])
    manifest = read_manifest(path)
    check_same(path, manifest.meta, meta)
    return restore(path, like), manifest


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises UserError at the first setting in which two runs differ."""
    for name in ("catalog_id", "dataset_hash", "base"):
        require(
            old[name] == new[name],
            f"{path} was made with {name} {old[name]}, this run has {new[name]}; "
            "wanted the same, or another --checkpoint_dir",
        )
    for name in sorted(new["config"].keys() - _FREE):
        was, now = old["config"].get(name), new["config"][name]
        require(
            was == now,
            f"{path} was made with --{name} {was}, this run has {now}; wanted the "
            "same, or another --checkpoint_dir",
        )


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole: under a temporary name, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error}") from error
