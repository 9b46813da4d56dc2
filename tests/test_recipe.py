"""Flags, recipes and what is known of memory before a run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from models import NOWHERE

from eqids.config import (
    LLAMA_PRESETS,
    ML_100K,
    EvaluateConfig,
    ModelConfig,
    Strategy,
    TrainConfig,
    UserError,
    recipe_for,
)
from eqids.data import Dataset
from eqids.model import EqIDs
from eqids.planning.abstract import job_of_run
from eqids.planning.memory_check import needed
from eqids.runs.recipe import checked, resolved
from eqids.runs.run_step import step_config


@pytest.mark.parametrize(
    ("flags", "strategy"),
    [
        (TrainConfig(), "all"),
        (TrainConfig(freeze_llama=True), "heads"),
        (TrainConfig(llama_path=Path("llama")), "heads"),
        (TrainConfig(llama_path=Path("llama"), train="all"), "all"),
    ],
)
def test_unset_flags_come_from_the_recipe(
    flags: TrainConfig, strategy: Strategy
) -> None:
    config = resolved(flags, ML_100K)
    nano = LLAMA_PRESETS["nano"] if flags.llama_path is None else None
    recipe = recipe_for(ML_100K, nano, strategy)
    assert (config.strategy, config.recipe) == (strategy, recipe)
    given = {"batch_size": 5, "seq_len": 9, "learning_rate": 0.5, "num_steps": 7}
    changed = resolved(dataclasses.replace(flags, **given), ML_100K)
    for name, value in dataclasses.asdict(recipe).items():
        assert getattr(changed.recipe, name) == given.get(name, value)
    tokens = resolved(dataclasses.replace(flags, text_tokens_per_item=8), ML_100K)
    assert tokens.recipe.seq_len == 4 * recipe.seq_len
    assert tokens.recipe.learning_rate == recipe.learning_rate


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: checked(TrainConfig(llama_path=Path("llama"), from_scratch=True)),
            "--llama_path and --from_scratch contradict",
        ),
        (
            lambda: resolved(TrainConfig(stop_at=10**9), ML_100K),
            "--stop_at is 1000000000",
        ),
        (
            lambda: checked(TrainConfig(llama_config=Path("x"), llama_size="mini")),
            "--llama_config and --llama_size contradict",
        ),
        (lambda: TrainConfig(epochs=1.0, num_steps=5), "--epochs 1.0 and --num_steps"),
        (lambda: TrainConfig(epochs=0.0), "--epochs is 0.0"),
        (lambda: TrainConfig(max_minutes=-1.0), "--max_minutes is -1.0"),
        (lambda: TrainConfig(early_stop=-1), "--early_stop is -1"),
        (lambda: TrainConfig(test_users=0), "--test_users is 0"),
        (lambda: TrainConfig(seq_len=0), "--seq_len is 0"),
        (lambda: TrainConfig(eval_users=-1), "--eval_users is -1"),
        (lambda: EvaluateConfig(checkpoint=Path("x"), eval_users=0), "--eval_users is"),
        (lambda: TrainConfig(dropout=1.0), "--dropout is 1.0"),
        (lambda: TrainConfig(learning_rate=-1.0), "--learning_rate is -1.0"),
        (lambda: TrainConfig(freeze_llama=True, train="all"), "--freeze_llama"),
    ],
)
def test_impossible_flags_are_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build()


def test_memory_is_estimated_without_any_array(dataset: Dataset) -> None:
    flags = TrainConfig(batch_size=2, seq_len=8, item_optimizer="dense")
    places = dataset.info.num_clusters, dataset.info.cluster_size
    sizes = ModelConfig(LLAMA_PRESETS["nano"], *places, item_width=8)
    job = job_of_run(resolved(flags, ML_100K), sizes)
    # The step that is estimated is the one that trains.
    assert job.step == step_config(resolved(flags, ML_100K), sizes.llama)
    needs = needed(job, NOWHERE)
    model = EqIDs(sizes, key=jax.random.key(0))
    floats = [x for x in jax.tree.leaves(model) if x.dtype == jnp.float32]
    weights = 4 * sum(x.size for x in floats)
    assert needs.frozen == 30  # the mask of 30 places
    assert needs.trained == weights
    assert needs.optimizer == 2 * weights + 12  # and three counters, one of them ours
    assert needs.peak == needs.arguments + needs.temporaries
    assert needs.temporaries > needs.gradients
    # A number for each vector and each bias, where Adam keeps two of its size.
    step = dataclasses.replace(job.step, item_optimizer="adagrad")
    sparse = needed(dataclasses.replace(job, step=step), NOWHERE)
    more = 4 * 30 * (2 * (8 + 1) - (1 + 1)) - 4  # and a counter of its own schedule
    assert needs.optimizer - sparse.optimizer == more
