"""A checkpoint that follows its catalog, measured before and after."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from eqids.checkpoints import leaf_name, read_manifest, resolve, restore, steps
from eqids.config import RunConfig, from_json, require, to_json
from eqids.data import Dataset
from eqids.data.batches.tokens import ItemTokens
from eqids.data.batches.training_batches import BatchConfig, TrainingBatches
from eqids.data.catalog.as_of import as_of
from eqids.data.catalog.lineage import Change
from eqids.fit.evaluation import evaluate, make_ranker, of_users
from eqids.inference.open import assemble, tokens_of_run
from eqids.migrate.state_migration import Migrated, migrate, version_of
from eqids.model import Batch, EqIDs
from eqids.runs.run_tokens import prompt_computed
from sharding import placement

_QUERIES = 8192
"""Positions of training histories that the changed clusters are fitted to."""

Metrics = Mapping[str, Any] | None


class Migration:
    """The plan to bring a checkpoint to another version of its catalog."""

    def __init__(
        self,
        checkpoint: Path,
        output: Path | None,
        dataset: Dataset,
        version: int,
        llama_path: Path | None,
        tokenizer: Path | None = None,
    ):
        """Refuses what could not be carried out, before anything is written.

        Args:
            checkpoint: DIR/STEP, or a run's DIR, which means its best step.
            output: the new run's folder, by default beside the old one.
            dataset: with the present version of the catalog.
            version: of the catalog to bring it to.
            llama_path: where the frozen Llama is, by default where the run found it.
            tokenizer: the file of the tokenizer of a run with words, by default where
                the run found it.

        Raises:
            UserError: no such checkpoint, one of another catalog or of that version
                already, or an output that cannot be written or holds its step or
                those of another catalog.
        """
        self.path = resolve(checkpoint)
        manifest = read_manifest(self.path)
        self._version = version_of(self.path, manifest, dataset)
        require(
            self._version < version,
            f"{self.path} is of version {version} of the catalog already",
        )
        # From inside the run, its folder has no name to change.
        named = len(self.path.parts) > 1 and ".." not in self.path.parts
        old = (self.path if named else self.path.resolve()).parent
        run = re.sub(r"-v\d+$", "", old.name)
        self._output = output or old.with_name(f"{run}-v{version}")
        self.target = self._output / str(manifest.step)
        require(
            not self.target.exists(),
            f"{self.target} exists already, wanted another --output",
        )
        same = version == dataset.info.catalog_version
        _check_folder(self._output, dataset.info.catalog_id if same else None)
        self._dataset, self._llama_path = dataset, llama_path
        self._tokenizer = tokenizer
        self._meta = manifest.meta
        self._config = from_json(
            RunConfig, manifest.meta["config"], f"{self.path}: config"
        )
        self._put = placement("data")
        self._words = self._words_of(dataset)
        self._users = np.zeros(dataset.num_users, np.bool_)

    def before(self, change: Change) -> Metrics:
        """Evaluates the checkpoint as it is, on targets that it knows and that stay.

        Args:
            change: what becomes of the present version of the catalog.
        """
        now, then = self._dataset, as_of(self._dataset, self._version)
        target = now.slots[now.offsets[:-1] + np.maximum(now.valid_at, 0)]
        stays = change.replay(now.item_valid).reshape(-1)
        stays = stays[change.moves(now.num_slots)[target]]
        self._users = (then.valid_at > 0) & (now.valid_at > 0) & stays

        def stored(like: EqIDs, shapes: EqIDs) -> EqIDs:
            return restore(self.path, like, "params", shapes)

        with self._put.active():
            model = self._model(self._meta, stored, then)
            tokens = self._words
            if tokens is not None:
                slots_then = now.lineage.slots_at(self._version)
                tokens = tokens.remapped(slots_then, then.num_slots)
            return self._metrics(model, of_users(then, self._users), tokens)

    def write(self, dataset: Dataset) -> Metrics:
        """Writes the checkpoint for the present version.

        Returns:
            Its metrics for the users whom `before` looked at; the checkpoint has
            those for all.
        """
        migrated = migrate(self.path, dataset)
        self._words = self._words_of(dataset)
        if self._words is not None:
            tokens = {"tokens": to_json(self._words.config)}
            meta = {**migrated.meta, "config": migrated.meta["config"] | tokens}
            migrated = replace(migrated, meta=meta)
        with self._put.active():
            queries = self._queries(self._migrated(migrated, dataset), dataset)
            migrated = migrated.fitted(queries)
            model = self._migrated(migrated, dataset)
            metrics = everyone = self._metrics(model, dataset, self._words)
            if not np.array_equal(self._users, dataset.valid_at > 0):
                those = of_users(dataset, self._users)
                metrics = self._metrics(model, those, self._words)
        migrated.save(self._output, everyone)
        return metrics

    def _migrated(self, migrated: Migrated, dataset: Dataset) -> EqIDs:
        def params(like: EqIDs, shapes: EqIDs) -> EqIDs:
            def of(route: Any, leaf: Any) -> jax.Array:
                return jnp.asarray(migrated.arrays[leaf_name(route, "params")])

            return self._put(jax.tree_util.tree_map_with_path(of, shapes))

        return self._model(migrated.meta, params, dataset)

    def _model(
        self,
        meta: Mapping[str, Any],
        params: Callable[[EqIDs, EqIDs], EqIDs],
        dataset: Dataset,
    ) -> EqIDs:
        return assemble(self.path, meta, params, dataset, self._llama_path, self._put)

    def _queries(
        self, model: EqIDs, dataset: Dataset
    ) -> Float[np.ndarray, "query item_width"]:
        """Queries at positions of training histories; they know no target."""
        recipe, seed = self._config.recipe, self._config.flags.seed
        config = BatchConfig(recipe.seq_len, recipe.batch_size, seed)
        model, tokens = self._with_prompt(model, self._words)
        batches = TrainingBatches(dataset, config, tokens)
        ask = jax.jit(lambda model, batch: model.queries(batch, dtype=self._dtype))
        found: list[np.ndarray] = []
        step = 0
        while sum(map(len, found)) < _QUERIES and step < 2 * batches.batches_per_epoch:
            batch = Batch.of(batches.batch(step))
            queries = np.asarray(ask(model, self._put(batch)), np.float32)
            there = np.asarray(batch.segment) > 0
            if self._words is not None:
                there = np.asarray(batch.target) >= 0
            found.append(queries[there])
            step += 1
        return np.concatenate(found)[:_QUERIES]

    def _words_of(self, dataset: Dataset) -> ItemTokens | None:
        where = self._tokenizer, self._llama_path
        return tokens_of_run(self.path, self._config, dataset, *where)

    def _metrics(
        self, model: EqIDs, dataset: Dataset, tokens: ItemTokens | None
    ) -> Metrics:
        if not (dataset.valid_at > 0).any():
            return None
        seq_len = self._config.recipe.seq_len
        model, tokens = self._with_prompt(model, tokens)
        ranker = make_ranker(seq_len, self._dtype, self._put, tokens)
        return evaluate(model, dataset, "valid", ranker)

    def _with_prompt(
        self, model: EqIDs, tokens: ItemTokens | None
    ) -> tuple[EqIDs, ItemTokens | None]:
        return prompt_computed(model, tokens, self._config.strategy, self._dtype)

    @property
    def _dtype(self) -> jnp.dtype:
        return jnp.dtype(self._config.dtype)


def _check_folder(output: Path, catalog_id: str | None) -> None:
    """Requires that a run of a version of a catalog can be written to a folder.

    Args:
        output: the folder.
        catalog_id: of the version, or None if it is still to come.
    """
    real = output.resolve()
    there = next(above for above in (real, *real.parents) if above.exists())
    require(
        there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        f"{output} cannot be written: {there} is not a folder that can be written to; "
        "wanted another --output",
    )
    for step in steps(output):
        found = read_manifest(output / str(step)).meta["catalog_id"]
        require(
            found == catalog_id,
            f"{output} holds step {step} of another version of the catalog, wanted "
            "another --output",
        )


def report(metrics: Mapping[str, Metrics]) -> str:
    """Returns a table of validation metrics, seen items filtered, a row for each."""
    lines = [f"{'valid, filtered':<18}{'users':>8}{'NDCG@10':>10}{'Recall@10':>11}"]
    for name, found in metrics.items():
        if found is None:
            lines.append(f"{name:<18}{'-':>8}{'-':>10}{'-':>11}")
            continue
        filtered = found["filtered"]
        lines.append(
            f"{name:<18}{found['num_users']:>8,}{filtered['ndcg@10']:>10.4f}"
            f"{filtered['recall@10']:>11.4f}"
        )
    return "\n".join(lines)
