"""What a run's checkpoints record beside their arrays."""

from importlib.metadata import version
from typing import Any

from eqids.config import ModelConfig, RunConfig, to_json
from eqids.data import Dataset
from eqids.fit.evaluation import Evaluation

_PACKAGES = ("eqids", "jax", "equinox", "optax")


def run_meta(
    config: RunConfig,
    model: ModelConfig,
    dataset: Dataset,
    base: str | None,
    validation: Evaluation | None,
    train_seconds: float = 0.0,
) -> dict[str, Any]:
    """Returns what a checkpoint records beside its arrays, as JSON values.

    Args:
        config: the run's config.
        model: the model's sizes.
        dataset: the dataset that the run trains on.
        base: fingerprint of the pretrained Llama's files, if there is one.
        validation: the evaluation of these weights, if any.
        train_seconds: how long the run has trained, over all of its processes.
    """
    return {
        "config": to_json(config),
        "model": to_json(model),
        "catalog_id": dataset.info.catalog_id,
        "dataset_hash": dataset.info.dataset_hash,
        "protocol": to_json(dataset.info.protocol),
        "base": base,
        "score": validation and validation["filtered"]["ndcg@10"],
        "validation": validation,
        "train_seconds": train_seconds,
        "versions": {name: version(name) for name in _PACKAGES},
    }
