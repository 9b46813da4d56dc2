"""Migrates a checkpoint to another version of its catalog, and evaluates both."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqids.checkpoints import leaf_name, restore
from eqids.cli import say
from eqids.config import ChangeConfig, to_json
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.data.catalog.as_of import as_of
from eqids.data.catalog.lineage import Change
from eqids.fit.evaluation import evaluate, make_ranker, of_some_users, of_users
from eqids.migrate.migrated_checkpoint import MigratedCheckpoint, migrate_checkpoint
from eqids.migrate.migration_plan import MigrationPlan
from eqids.migrate.texts_of_new_items import NewTexts, added_since
from eqids.model import Batch, EqIDs, PrefixCache
from eqids.runs.assemble import assemble
from eqids.runs.run_tokens import prompt_computed, recorded_tokens
from sharding import placement

_QUERIES = 8192
"""Positions of training histories that the changed clusters are fitted to."""


class MeasuredMigration:
    """Migrates one checkpoint: `measure` before the catalog changes, then `write`."""

    def __init__(self, config: ChangeConfig, plan: MigrationPlan, dataset: Dataset):
        """Reads the tokens of the run's texts.

        Args:
            config: where the run's Llama and its tokenizer are.
            plan: which checkpoint becomes which.
            dataset: with the present version of the catalog.

        Raises:
            UserError: see `recorded_tokens`.
        """
        self.plan, self._flags, self._dataset = plan, config, dataset
        self._put = placement("data")
        self._dtype = jnp.dtype(self.plan.config.dtype)
        self.tokens = self._tokens_of(dataset)
        self._texts = None
        if self.plan.config.recipe.text_width:
            self._texts = NewTexts(self.plan.checkpoint, self.plan.config, config)
        self._users = np.zeros(dataset.num_users, np.bool_)

    def measure(self, change: Change) -> Mapping[str, Any] | None:
        """Evaluates the checkpoint on validation targets of its own version.

        Items that were added later or that the change retires are no targets here.

        Args:
            change: what happens to the present version of the catalog.

        Returns:
            The result of `evaluate`, or None if no user has such a target.

        Raises:
            UserError: there are new items, and the Llama that encoded the texts of the
                others no longer exists, or is another.
        """
        now, version = self._dataset, self.plan.version
        if self._texts is not None and added_since(now.lineage, version, change):
            self._texts.encoder()
        then = as_of(now, version)
        target = now.slots[now.offsets[:-1] + np.maximum(now.valid_at, 0)]
        stays = change.replay(now.item_valid).reshape(-1)
        stays = stays[change.moves(now.num_slots)[target]]
        self._users = (then.valid_at > 0) & (self._sample(now).valid_at > 0) & stays

        def stored(like: EqIDs, shapes: EqIDs) -> EqIDs:
            return restore(self.plan.checkpoint, like, "params", shapes)

        with self._put.active():
            model = self._model(self.plan.manifest.meta, stored, then)
            tokens = self.tokens
            if tokens is not None:
                tokens = tokens.remapped(now.lineage.slots_at(version), then.num_slots)
            return self._evaluate(model, of_users(then, self._users), tokens)

    def write(self, dataset: Dataset) -> Mapping[str, Any] | None:
        """Writes the checkpoint for the present version, with its evaluation.

        Args:
            dataset: with the present version of the catalog.

        Returns:
            The evaluation on the targets of `measure`, or None if there were none.
        """
        migrated = self.migrated(dataset)
        sample = self._sample(dataset)
        found = same_users = self.evaluated(migrated, sample)
        if not np.array_equal(self._users, sample.valid_at > 0):
            same_users = self.evaluated(migrated, of_users(dataset, self._users))
        migrated.save(self.plan.target.parent, found)
        return same_users

    def migrated(self, dataset: Dataset) -> MigratedCheckpoint:
        """Returns the checkpoint for the present version, in memory.

        Args:
            dataset: with the present version of the catalog.
        """
        migrated = migrate_checkpoint(self.plan.checkpoint, dataset)
        self.tokens = self._tokens_of(dataset)
        if self.tokens is not None:
            tokens = {"tokens": to_json(self.tokens.config)}
            meta = {**migrated.meta, "config": migrated.meta["config"] | tokens}
            migrated = replace(migrated, meta=meta)
        if self.plan.version == dataset.lineage.version:
            return migrated
        with self._put.active():
            if self._texts is not None:
                arrays = self._texts.written(
                    migrated.arrays, dataset, self.plan.version, self._put, say
                )
                migrated = replace(migrated, arrays=arrays)
            queries = self._queries(self._migrated_model(migrated, dataset), dataset)
            return migrated.fitted(queries)

    def evaluated(
        self, migrated: MigratedCheckpoint, dataset: Dataset
    ) -> Mapping[str, Any] | None:
        """Evaluates what `migrated` returned on the validation targets of a dataset.

        Returns:
            The result of `evaluate`, or None if there are no targets.
        """
        with self._put.active():
            model = self._migrated_model(migrated, dataset)
            return self._evaluate(model, dataset, self.tokens)

    def _sample(self, dataset: Dataset) -> Dataset:
        """The dataset with the targets of the users that the run evaluates."""
        return of_some_users(dataset, self.plan.config.recipe.eval_users or None)

    def _migrated_model(self, migrated: MigratedCheckpoint, dataset: Dataset) -> EqIDs:
        def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
            def of(route: tuple[object, ...], leaf: object) -> Array:
                return jnp.asarray(migrated.arrays[leaf_name(route, "params")])

            return self._put(jax.tree_util.tree_map_with_path(of, shapes))

        return self._model(migrated.meta, params, dataset)

    def _model(
        self,
        meta: Mapping[str, Any],
        params: Callable[[EqIDs, EqIDs], EqIDs],
        dataset: Dataset,
    ) -> EqIDs:
        path, llama_path = self.plan.checkpoint, self._flags.llama_path
        return assemble(path, meta, params, dataset, llama_path, self._put)

    def _queries(
        self, model: EqIDs, dataset: Dataset
    ) -> Float[np.ndarray, "query item_width"]:
        """Computes queries at positions of training histories, never their targets."""
        recipe, seed = self.plan.config.recipe, self.plan.config.flags.seed
        config = BatchConfig(recipe.seq_len, recipe.batch_size, seed)
        prefix, tokens = self._without_prompt(model, self.tokens)
        batches = TrainingBatches(dataset, config, tokens)

        @jax.jit
        def ask(model: EqIDs, prefix: PrefixCache | None, batch: Batch) -> Array:
            return model.queries(batch, dtype=self._dtype, prefix=prefix)

        found: list[np.ndarray] = []
        step = 0
        while sum(map(len, found)) < _QUERIES and step < 2 * batches.batches_per_epoch:
            batch = Batch.of(batches.batch(step))
            queries = np.asarray(ask(model, prefix, self._put(batch)), np.float32)
            is_query = np.asarray(batch.segment) > 0
            if self.tokens is not None:
                is_query = np.asarray(batch.target) >= 0
            found.append(queries[is_query])
            step += 1
        return np.concatenate(found)[:_QUERIES]

    def _tokens_of(self, dataset: Dataset) -> ItemTokens | None:
        flags, path = self._flags, self.plan.checkpoint
        config = self.plan.config
        return recorded_tokens(path, config, dataset, flags.tokenizer, flags.llama_path)

    def _evaluate(
        self, model: EqIDs, dataset: Dataset, tokens: ItemTokens | None
    ) -> Mapping[str, Any] | None:
        if not (dataset.valid_at > 0).any():
            return None
        seq_len = self.plan.config.recipe.seq_len
        prefix, tokens = self._without_prompt(model, tokens)
        ranker = make_ranker(seq_len, self._dtype, self._put, tokens, prefix)
        return evaluate(model, dataset, "valid", ranker)

    def _without_prompt(
        self, model: EqIDs, tokens: ItemTokens | None
    ) -> tuple[PrefixCache | None, ItemTokens | None]:
        strategy = self.plan.config.strategy
        return prompt_computed(model.llama, tokens, strategy, self._dtype)
