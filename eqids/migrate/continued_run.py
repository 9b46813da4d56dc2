"""Begins a run that continues another: its first checkpoint is the other's.

Weights, optimizer and step are those of the other run's checkpoint, brought to the
present version of the catalog. The schedule of the learning rate begins anew. The first
checkpoint is evaluated on the new data, so if training makes nothing better, the new
run's best step is the model that it began with.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eqids.checkpoints import read_manifest, resolve
from eqids.config import (
    ChangeConfig,
    Continued,
    DataFacts,
    Recipe,
    RunConfig,
    TrainConfig,
    continued_recipe,
    from_json,
    require,
    to_json,
)
from eqids.data import Dataset, open_dataset
from eqids.data.facts import facts_of
from eqids.fit.cooldown import NOT_BEGUN
from eqids.fit.evaluation import of_some_users
from eqids.migrate.measured_migration import MeasuredMigration
from eqids.migrate.migrated_checkpoint import MigratedCheckpoint, version_of
from eqids.migrate.migration_plan import MigrationPlan, check_output_folder
from eqids.runs.recipe import checked, resolved, strategy_of
from eqids.runs.run_folder import check_fresh
from eqids.runs.starting_point import newest_checkpoint

_COOLDOWN = "/begun"
"""How the name of an array ends that says when a cool-down was begun."""


def begin_continued(flags: TrainConfig, report: Callable[[str], None]) -> TrainConfig:
    """Writes the first checkpoint of a run that continues another.

    Training resumes from it as from any of its own. If the run has a checkpoint
    already, nothing is written.

    Args:
        flags: the run's, with those that it takes over.
        report: receives what was done.

    Returns:
        The flags with which the run resumes: what --fresh asks for is checked.

    Raises:
        UserError: the checkpoint does not exist, is damaged or has another catalog or
            another strategy; or the folder holds another run, or with --fresh anything.
    """
    flags = checked(flags)
    folder, given = flags.checkpoint_dir, flags.continue_from
    assert folder is not None and given is not None
    if flags.fresh:
        check_fresh(folder)
        flags = dataclasses.replace(flags, fresh=False)
    own = newest_checkpoint(folder)
    if own is not None:
        _check_own(own.path, own.config, flags)
        return flags
    require(
        jax.process_count() == 1,
        f"{folder} has no checkpoint yet, and its first one is made by one process; "
        "run the command once on one, with --stop_at and the step of the checkpoint",
    )
    _write_first(flags, resolve(given, "--continue_from"), folder, report)
    return flags


def _write_first(
    flags: TrainConfig, path: Path, folder: Path, report: Callable[[str], None]
) -> None:
    plan, dataset = _planned(flags, path, folder)
    report(f"evaluating {plan.checkpoint} on {dataset.path}")
    change = ChangeConfig(
        data_dir=dataset.path,
        llama_path=flags.llama_path,
        text_llama_path=flags.text_llama_path,
        tokenizer=flags.tokenizer,
    )
    migration = MeasuredMigration(change, plan, dataset)
    migrated = migration.migrated(dataset)
    recipe = _recipe(flags, plan, facts_of(dataset, migration.tokens))
    users = of_some_users(dataset, recipe.eval_users or None)
    found = migration.evaluated(migrated, users)
    score = None if found is None else found["filtered"]["ndcg@10"]
    _with_config(migrated, flags, recipe, Continued(plan.checkpoint, score)).save(
        folder, found
    )
    if found is not None:
        report(
            f"NDCG@10 {score:.4f} on validation, {found['num_users']:,} users, before "
            "any further step"
        )


def _check_own(path: Path, config: RunConfig, flags: TrainConfig) -> None:
    """Requires that a folder holds the run that the flags describe."""
    given, was = flags.continue_from, config.continues
    require(
        was is not None and given in (was.checkpoint, was.checkpoint.parent),
        f"{path} is of a run that continues {was and was.checkpoint}, and "
        f"--continue_from is {given}; wanted the same, or another --checkpoint_dir",
    )
    made = config.recipe.own_steps
    require(
        flags.more_steps in (None, made),
        f"{path} is of a run of {made} further steps, and --more_steps is "
        f"{flags.more_steps}; wanted the same, or --continue_from {path.parent}",
    )


def _planned(
    flags: TrainConfig, path: Path, folder: Path
) -> tuple[MigrationPlan, Dataset]:
    manifest = read_manifest(path)
    config = from_json(RunConfig, manifest.meta["config"], f"{path}: config")
    strategy = strategy_of(flags)
    require(
        strategy == config.strategy,
        f"{path} was made with --train {config.strategy}, and its optimizer does not "
        f"fit to --train {strategy}; wanted the same, or the weights alone: "
        f"--load_checkpoint {path}",
    )
    dataset = open_dataset(flags.data_dir or config.data_dir)
    version = version_of(path, manifest, dataset)
    check_output_folder(folder, dataset.info.catalog_id)
    target = folder / str(manifest.step)
    return MigrationPlan(path, target, version, manifest, config), dataset


def _recipe(flags: TrainConfig, plan: MigrationPlan, facts: DataFacts) -> Recipe:
    old = plan.config.recipe
    silent = dataclasses.replace(
        flags, batch_size=old.batch_size, seq_len=old.seq_len, epochs=None
    )
    fields = {field.name for field in dataclasses.fields(Recipe)}
    names = (fields & vars(flags).keys() | {"more_steps"}) - {"num_steps"}
    given = {name: getattr(flags, name) for name in names | {"epochs"}}
    given = {name: value for name, value in given.items() if value is not None}
    given.pop("text_width", None)
    new = resolved(silent, facts).recipe
    return continued_recipe(old, new, facts, plan.manifest.step, given)


def _with_config(
    migrated: MigratedCheckpoint,
    flags: TrainConfig,
    recipe: Recipe,
    continues: Continued,
) -> MigratedCheckpoint:
    """Returns a checkpoint as the new run would have saved it."""
    old = from_json(RunConfig, migrated.meta["config"], "config")
    rate = flags.llama_learning_rate
    if rate is not None and rate == old.flags.llama_learning_rate:
        rate *= recipe.learning_rate / old.recipe.learning_rate
    config = dataclasses.replace(
        old,
        flags=dataclasses.replace(flags, llama_learning_rate=rate),
        recipe=recipe,
        stop_at=recipe.num_steps,
        save_every=flags.save_every or recipe.eval_every,
        continues=continues,
    )
    meta: Mapping[str, Any] = {
        **migrated.meta, "config": to_json(config), "train_seconds": 0.0
    }  # fmt: skip
    arrays = {
        name: np.asarray(NOT_BEGUN) if name.endswith(_COOLDOWN) else array
        for name, array in migrated.arrays.items()
    }
    return dataclasses.replace(migrated, meta=meta, arrays=arrays)
