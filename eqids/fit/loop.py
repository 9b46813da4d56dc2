"""The loop of a run: step, log, evaluate, save, and know when to stop."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from eqids.checkpoints import Saver, best_step, latest_step, read_manifest
from eqids.config import RunConfig, Stopped
from eqids.data import Dataset
from eqids.data.batches.training_batches import TrainingBatches
from eqids.fit.active_clusters import ActiveLists
from eqids.fit.cold_start import ColdItems
from eqids.fit.evaluation import Ranker, evaluate
from eqids.fit.log import Log
from eqids.fit.signals import StopSignals
from eqids.fit.step import State, Step
from eqids.model import Batch, EqIDs, PrefixCache
from sharding import Placement, beside

Meta = Callable[[Mapping[str, Any] | None], Mapping[str, Any]]
"""What a checkpoint records, given the evaluation of its weights, if there was one."""


def train(
    config: RunConfig,
    state: State,
    frozen: EqIDs,
    step: Step,
    key: PRNGKeyArray,
    *,
    dataset: Dataset,
    batches: TrainingBatches,
    ranker: Ranker,
    saver: Saver,
    meta: Meta,
    put: Placement,
    stored: State | None = None,
    active_lists: ActiveLists | None = None,
    cold: ColdItems | None = None,
    prefix: PrefixCache | None = None,
) -> State:
    """Trains from the state's step to the run's last, and leaves checkpoints.

    Args:
        config: the run's.
        state: where to start; its buffers are used up.
        frozen: the rest of the model.
        step: from `make_step`.
        key: the run's, for `step`.
        dataset: whose validation split is evaluated.
        batches: what to train on.
        ranker: for the evaluations.
        saver: of the run's folder, where metrics go too.
        meta: what checkpoints record.
        put: where batches go.
        stored: the shapes of the state in checkpoints, see `stored_shapes`.
        touching: lists a batch's clusters, where item tables have a row-sparse
            optimizer.
        cold: items that training leaves out, and where they stand when it is over.
        prefix: of the prompt, if the batches lack it.

    Returns:
        The last state, which is saved.

    Raises:
        UserError: the loss is not finite, or the last checkpoint could not be
            written.
        Stopped: a signal asked for it; the last state is saved.
    """
    flags, recipe, stop = config.flags, config.recipe, config.stop_at
    done, size, folder = int(state.step), recipe.batch_size, saver.directory
    own = put.rows(size)
    patience = Patience(flags.early_stop, folder, recipe.eval_every)
    if patience.spent:
        return state
    signals = StopSignals(flags.save_minutes)
    taught = frozen if cold is None else cold.hidden(frozen)
    with Log(folder, done, stop, flags.tensorboard, saver.newest) as log, signals:
        # Clusters are those of the whole batch, which then every process makes.
        made = own if active_lists is None else slice(None)
        for host in batches.iterate(done, stop, made):
            active = None
            if active_lists is not None:
                active = beside(active_lists(host), state.params.softmax.table)
                host = host.rows(own)
            batch = Batch.of(host, partial(put.batch, num_rows=size))
            state, metrics = step(state, taught, batch, key, active, prefix)
            log.add(metrics)
            done += 1
            if done % flags.log_every == 0:
                log.flush(done)
            validation = None
            if done % recipe.eval_every == 0 or done == recipe.num_steps:
                log.flush(done)
                state = state if cold is None else cold.placed(state)
                model = eqx.combine(state.params, frozen)
                validation = evaluate(model, dataset, "valid", ranker)
                log.validation(done, validation)
            better = validation is not None and patience.better(validation)
            signals.listen(done)
            last = done == stop or patience.spent or signals.signal is not None
            if last or better or signals.save or done % config.save_every == 0:
                # Weights are looked at first, so that none that is not finite is saved.
                log.flush(done)
                state = state if cold is None else cold.placed(state)
                saver.save(done, state, meta(validation), stored)
                signals.saved()
            if last:
                saver.wait()
                break
    if signals.signal is not None:
        raise Stopped(
            f"stopped by {Signals(signals.signal).name} at step {done}, which is "
            "saved; the same command goes on",
            signals.signal,
        )
    return state


class Patience:
    """Counts evaluations without a better NDCG@10."""

    def __init__(self, limit: int | None, folder: Path, eval_every: int):
        """Starts from the best that a resumed run's folder holds.

        Args:
            limit: how many to bear, or None for any number.
            folder: the run's.
            eval_every: steps between evaluations.
        """
        self._limit, self._waited, self._best = limit, 0, -1.0
        best, newest = best_step(folder), latest_step(folder)
        if best is not None and newest is not None:
            score = read_manifest(folder / str(best)).meta["score"]
            self._best = -1.0 if score is None else score
            self._waited = (newest - best) // eval_every

    @property
    def spent(self) -> bool:
        """Whether to stop."""
        return self._limit is not None and self._waited >= self._limit

    def better(self, validation: Mapping[str, Any]) -> bool:
        """Counts an evaluation, and returns whether it is the best so far."""
        score = validation["filtered"]["ndcg@10"]
        better = score > self._best
        self._waited = 0 if better else self._waited + 1
        self._best = max(self._best, score)
        return better
